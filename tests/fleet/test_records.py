"""Records that come back: those of the bundle and the board are taken, all together; any other is refused."""

import json
from dataclasses import asdict

import pytest

from rmt_edge.artifact import CHECKPOINT, ENGINE, ONNX, PREDICTIONS, SUBSET, Manifest, parent_of
from rmt_edge.bundle.subset import IMAGES
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.records import check_name, records_of, take_in
from rmt_edge.latency.verdict import verdict
from tests.bundles import FILES, index_of
from tests.latency_records import MACHINE, make_run, noisy_run, write_record

INDEX = index_of(FILES)
ENGINE_SHA, PLUGIN_FORM_SHA = "e" * 64, str(INDEX.sha256_of("m.plugin.onnx"))
DETAILS = {
    "top1_percent": 92.0, "top5_percent": 99.0, "reference_top1_percent": 92.0, "drop_points": 0.0,
    "drop_interval_points": [-0.5, 0.5], "agreement_percent": 98.0, "images": 500, "machine": MACHINE,
    "max_drop_points": 0.5, "within_max_drop": True,
}  # fmt: skip


def manifest(name, kind, sha256, parents, **details):
    recipe = {"name": "fp16", "precision": "fp16"}
    value = Manifest(name, kind, sha256, 1, parents, recipe, details, 1.0)
    return json.dumps(asdict(value)).encode()


def engine_json(source=PLUGIN_FORM_SHA):
    return manifest("m.engine", ENGINE, ENGINE_SHA, [parent_of("m.plugin.onnx", source)])


def predictions_json(engine=ENGINE_SHA, checkpoint=INDEX.checkpoint["sha256"], subset=None, **details):
    parents = [
        parent_of("m.engine", engine), parent_of("c.pth", checkpoint, CHECKPOINT),
        parent_of(IMAGES, subset or str(INDEX.sha256_of(IMAGES)), SUBSET),
    ]  # fmt: skip
    return manifest("m.predictions.npz", PREDICTIONS, "d" * 64, parents, **(DETAILS | details))


@pytest.fixture
def latency_json(tmp_path):
    def made(sha256=ENGINE_SHA, machine=MACHINE, runs=None):
        path = write_record(tmp_path / "made.json", "m.engine", runs or [make_run()], sha256, machine=machine)
        return path.read_bytes()

    return made


@pytest.fixture
def whole(latency_json):
    return {
        "validate/m.predictions.npz.json": predictions_json(),
        "15W/m.engine.json": engine_json(),
        "15W/m.predictions.npz.json": predictions_json(),
        "15W/m.latency.json": latency_json(),
    }


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "orin"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "bench.log").touch()
    return path


def files(folder):
    return sorted(x.relative_to(folder).as_posix() for x in folder.rglob("*.json"))


def test_records_of_the_bundle_are_taken_and_those_of_an_earlier_run_go(folder, whole):
    (folder / "25W").mkdir()
    (folder / "25W" / "old.latency.json").write_text("{}")
    take_in(folder, "orin", whole, INDEX, MACHINE)
    assert files(folder) == sorted(whole)
    found = records_of(folder)
    assert found["accuracy"][ENGINE_SHA]["drop_points"] == 0.0
    assert found["modes"]["15W"]["latency"][0]["subject"]["sha256"] == ENGINE_SHA
    assert (folder / "logs" / "bench.log").exists() and not (folder / ".incoming").exists()


FOREIGN = "f" * 64


def changed(latency_json, name):
    """One record of a run, in a way that must not pass."""
    return {
        "engine of another model": ("15W/m.engine.json", engine_json(FOREIGN)),
        "latency of another engine": ("15W/m.latency.json", latency_json(FOREIGN)),
        "latency in another mode": ("15W/m.latency.json", latency_json(machine=MACHINE | {"power_mode": "25W"})),
        "latency of another board": ("15W/m.latency.json", latency_json(machine=MACHINE | {"board": "Thor"})),
        "latency of another JetPack": ("15W/m.latency.json", latency_json(machine=MACHINE | {"jetpack": "7.2"})),
        "predictions of another engine": ("validate/m.predictions.npz.json", predictions_json(FOREIGN)),
        "predictions of another checkpoint": (
            "validate/m.predictions.npz.json", predictions_json(checkpoint=FOREIGN)
        ),
        "predictions on other images": ("validate/m.predictions.npz.json", predictions_json(subset=FOREIGN)),
        "predictions of another board": (
            "validate/m.predictions.npz.json", predictions_json(machine=MACHINE | {"board": "Thor"})
        ),
        "a file that is cut short": ("15W/m.latency.json", latency_json()[:100]),
        "an ONNX file of another bundle": ("15W/x.onnx.json", manifest("x.onnx", ONNX, FOREIGN, [])),
        "what no step writes": ("15W/notes.json", b"{}"),
        "a verdict without its latencies": ("15W/x.verdict.json", json.dumps({
            "kind": "verdict", "name": "x", "machine": MACHINE, "rows": [{
                "runner": "tensorrt", "batch": 1, "verdict": "int8", "reason": "", "do": "", "speedup": 2.0,
                "speedup_interval": [1.9, 2.1], "fp16": {"file": "m.engine", "precision": "fp16", "p50_ms": 9.0},
                "reduced": {"file": "m.engine", "precision": "int8", "p50_ms": 4.5}}]}).encode()),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "engine of another model", "latency of another engine", "latency in another mode", "latency of another board",
        "latency of another JetPack", "predictions of another engine", "predictions of another checkpoint",
        "predictions on other images", "predictions of another board", "a file that is cut short",
        "an ONNX file of another bundle", "what no step writes", "a verdict without its latencies",
    ],
)  # fmt: skip
def test_a_record_that_does_not_belong_is_refused_and_none_of_them_taken(folder, whole, latency_json, name):
    path, content = changed(latency_json, name)
    with pytest.raises(RmtEdgeError):
        take_in(folder, "orin", whole | {path: content}, INDEX, MACHINE)
    assert files(folder) == []


def test_a_refusal_keeps_what_was_taken_before(folder, whole, latency_json):
    take_in(folder, "orin", whole, INDEX, MACHINE)
    with pytest.raises(RmtEdgeError, match=r"15W/m\.latency\.json of orin is refused"):
        take_in(folder, "orin", whole | {"15W/m.latency.json": latency_json(FOREIGN)}, INDEX, MACHINE)
    assert files(folder) == sorted(whole)


def test_the_real_verdict_of_the_records_passes(folder, tmp_path):
    """Two engines of the bundle's two forms, measured in one mode, and what `rmt-edge verdict` makes of them."""
    place = tmp_path / "there"
    place.mkdir()
    for precision, sha256, median in (("fp16", ENGINE_SHA, 2.0), ("int8", "a" * 64, 1.5)):
        runs = [noisy_run(median, precision=precision)]
        write_record(place / f"{precision}.latency.json", f"{precision}.engine", runs, sha256, precision=precision)
        source = parent_of("m.onnx", str(INDEX.sha256_of("m.onnx")))
        made = json.loads(manifest(f"{precision}.engine", ENGINE, sha256, [source]))
        made["recipe"] = {"name": precision, "precision": precision}
        (place / f"{precision}.engine.json").write_text(json.dumps(made))
        predicted = json.loads(predictions_json(sha256))
        predicted |= {"sha256": sha256[::-1], "name": f"{precision}.predictions.npz"}
        (place / f"{precision}.predictions.npz.json").write_text(json.dumps(predicted))
    (made,) = verdict(place)
    assert made.content["rows"][0]["verdict"] == "int8"
    contents = {f"15W/{x.name}": x.read_bytes() for x in place.glob("*.json")}
    take_in(folder, "orin", contents, INDEX, MACHINE)
    assert records_of(folder)["modes"]["15W"]["verdicts"][0]["rows"][0]["verdict"] == "int8"


@pytest.mark.parametrize(
    "name", ["../x/y.json", "x.json", "a/b/c.json", "/a/b.json", "a/.b.json", "a/b.sh", "a/b\n.json"]
)
def test_a_path_that_would_leave_the_folder_is_refused(name):
    with pytest.raises(RmtEdgeError, match="writes none of such a name"):
        check_name("orin", name)


def test_the_cpu_that_bench_alone_names_is_no_difference(folder, whole, latency_json):
    record = latency_json(machine=MACHINE | {"cpu": "Cortex", "cpus": 6, "free_memory_mib": 1})
    take_in(folder, "orin", whole | {"15W/m.latency.json": record}, INDEX, MACHINE)
    assert len(files(folder)) == 4
