"""What a baseline keeps of a folder of results, and the folders that it refuses."""

import json

import numpy as np
import pytest

from rmt_edge.accuracy.predictions import accuracy, write_predictions
from rmt_edge.artifact import (
    CHECKPOINT,
    DATA,
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    SOURCE,
    SUBSET,
    parent_of,
    plugin_form_path,
    sha256_of,
    write_manifest,
)
from rmt_edge.cli import main
from rmt_edge.errors import RmtEdgeError
from rmt_edge.gate.baseline import read_baseline, results_of, write_baseline
from rmt_edge.gate.gate import Limits, compare
from rmt_edge.latency.record import record_path
from rmt_edge.tasks import classification
from rmt_edge.tasks.classification import Hits, tally_from_dict
from rmt_edge.tasks.tasks import accuracy_in
from tests.latency_records import make_run, write_record

IMAGES = 400
TEST_SET = {"name": "test.npz", "sha256": "d" * 64}
NANO = {"name": "nano.safetensors", "sha256": "c" * 64}
ORIN = {
    "processor": "aarch64", "board": "Jetson AGX Orin", "power_mode": "MAXN", "tensorrt": {"tensorrt": "10.3.0"},
    "gpus": [{"name": "Orin", "compute_capability": "8.7", "driver_version": "540.4.0"}],
}  # fmt: skip


# A subject of a baseline of the first version.
OLD = (
    '{"top1_percent": 99.5, "hits": "%s", "images": %d, "data": {"name": "d", "sha256": "d"}, "size_bytes": {}, '
    '"latency": []}'
)


def make_file(path, kind, parents, recipe, size, **details):
    path.write_bytes(bytes(size))
    write_manifest(path, path, kind=kind, parents=parents, recipe=recipe, details=details, seconds=0)
    return path


def made_from(path):
    """A file as the source of another."""
    return parent_of(path.name, sha256_of(path))


def make_predictions(onnx_path, recipe, wrong, data=TEST_SET, subset=None):
    """Predictions of an ONNX file or engine: the reference is right on all images, the file wrong on the first few."""
    labels = np.arange(IMAGES) % 10
    reference = np.stack([labels, (labels + 1) % 10], axis=1).astype(np.int32)
    classes = reference.copy()
    classes[:wrong] = classes[:wrong, ::-1]
    scores = np.ones(classes.shape, np.float32)
    before, after = ({"classes": x, "scores": scores, "labels": labels} for x in (reference, classes))
    details = accuracy(classification, before, after) | {"images": IMAGES, "runtime": "ONNX Runtime, CPU"}
    path = onnx_path.parent / f"{onnx_path.stem}{'.subset' if subset else ''}.predictions.npz"
    parents = [made_from(onnx_path), NANO | {"role": CHECKPOINT}, data | {"role": DATA}]
    parents += [subset | {"role": SUBSET}] if subset else []
    write_predictions(path, after, parents, recipe, details, 0)
    return path


def make_latency(path, p50_ms, machine=ORIN, runner="tensorrt"):
    runs = [make_run([p50_ms], runner=x, cuda_graph=x == runner) for x in (runner, "torch eager")]
    write_record(record_path(path), path.name, runs, sha256_of(path), machine=machine)


def make_results(folder, wrong=4, p50_ms=2.0, engine_size=3000, onnx_size=1000, name="nano", **options):
    """A folder as deploy and bench leave it: an INT8 ONNX file, its engine from its plugin form, both records."""
    folder.mkdir(exist_ok=True)
    recipe = {"name": "int8", "precision": "int8"}
    onnx = make_file(folder / f"{name}.int8.onnx", ONNX, [NANO | {"role": SOURCE}], recipe, onnx_size, checkpoint=NANO)
    plugin = make_file(plugin_form_path(onnx), PLUGIN_ONNX, [made_from(onnx)], recipe, 900, checkpoint=NANO)
    engine = make_file(
        folder / f"{name}.int8.orin.plugin.engine", ENGINE, [made_from(plugin)], recipe, engine_size,
        checkpoint=NANO, profile={"name": "orin"}, kernels="plugin",
    )  # fmt: skip
    make_predictions(onnx, recipe, wrong, options.get("data", TEST_SET))
    make_latency(engine, p50_ms, options.get("machine", ORIN))
    return folder


def test_a_baseline_holds_accuracy_sizes_and_latencies(tmp_path):
    path = write_baseline(make_results(tmp_path / "a"))
    assert path == tmp_path / "a" / "baseline.json"
    subject = read_baseline(path)["int8"]
    assert subject["percent"] == 99 and subject["drop_points"] == 1 and subject["images"] == 400
    assert subject["metric"] == "top-1"
    assert subject["tallies"]["top-1"].is_right.tolist() == [False] * 4 + [True] * 396
    assert subject["size_bytes"] == {ONNX: 1000, "engine orin plugin": 3000}
    (run,) = subject["latency"]  # PyTorch's is not the engine's
    assert (run["file"], run["runner"], run["p50_ms"]) == ("engine orin plugin", "tensorrt", 2.0)
    assert run["machine"]["board"] == "Jetson AGX Orin" and run["machine"]["gpu"] == "Orin"
    assert subject["data"] == TEST_SET and subject["checkpoint"] == NANO


def test_a_baseline_of_the_first_version_is_read(tmp_path):
    """It knew classifiers alone; a repository has it committed."""
    folder = make_results(tmp_path / "a")
    path = write_baseline(folder)
    today = read_baseline(path)["int8"]
    content = json.loads(path.read_text())
    subject = content["subjects"]["int8"]
    subject["hits"] = subject.pop("tallies")["top-1"]["hits"]
    for key in ("task", "metric"):
        del subject[key]
    for key in ("percent", "reference_percent"):
        subject[key.replace("percent", "top1_percent")] = subject.pop(key)
    path.write_text(json.dumps(content))
    old = read_baseline(path)["int8"]
    assert old["percent"] == today["percent"] == 99 and old["metric"] == "top-1"
    assert np.array_equal(old["tallies"]["top-1"].is_right, today["tallies"]["top-1"].is_right)
    assert not any(row.is_worse for row in compare(path, folder, Limits()))
    assert compare(path, make_results(tmp_path / "b", wrong=7), Limits())[0].is_worse


def test_predictions_of_the_first_version_are_results(tmp_path):
    folder = make_results(tmp_path / "a")
    before = results_of(folder)["int8"]
    manifest = folder / "nano.int8.predictions.npz.json"
    content = json.loads(manifest.read_text())
    details = content["details"]
    details |= details.pop("classification")
    del details["metric"]
    for key in ("percent", "reference_percent"):
        details[key.replace("percent", "top1_percent")] = details.pop(key)
    for row in details["per_class"]:
        row["top1_percent"] = row.pop("percent")
    manifest.write_text(json.dumps(content))
    assert results_of(folder)["int8"] == before
    found = accuracy_in(details)
    assert found["classification"]["top5_percent"] == 100 and "top5_percent" not in found
    assert found["per_class"][0]["percent"] == 97.5


def test_names_of_files_do_not_matter(tmp_path):
    first, second = make_results(tmp_path / "a"), make_results(tmp_path / "b", name="other")
    a, b = results_of(first), results_of(second)
    assert a["int8"]["size_bytes"] == b["int8"]["size_bytes"] and a["int8"]["tallies"] == b["int8"]["tallies"]


def test_the_predictions_of_an_engine_are_a_subject_of_their_own(tmp_path):
    folder = make_results(tmp_path / "a")
    make_predictions(folder / "nano.int8.orin.plugin.engine", {"name": "int8", "precision": "int8"}, 8)
    subjects = results_of(folder)
    assert list(subjects) == ["int8", "int8 engine orin plugin"]
    assert subjects["int8 engine orin plugin"]["percent"] == 98
    assert subjects["int8 engine orin plugin"]["size_bytes"] == {"engine orin plugin": 3000}


def test_a_bundles_subset_is_a_subject_of_its_own(tmp_path):
    folder = make_results(tmp_path / "a")
    subset = {"name": "images.npy", "sha256": "5" * 64}
    make_predictions(folder / "nano.int8.onnx", {"name": "int8", "precision": "int8"}, 8, subset=subset)
    subjects = results_of(folder)
    assert list(subjects) == ["int8", "int8, subset"]
    assert subjects["int8, subset"]["data"] == subset and subjects["int8"]["data"] == TEST_SET


@pytest.mark.parametrize("count", [1, 7, 8, 9, 400])
def test_hits_are_kept_in_a_bit_each(count):
    hits = np.random.default_rng(count).random(count) < 0.7
    values = Hits(hits).to_dict()
    assert len(values["hits"]) <= 4 * (-(-count // 8) // 3 + 1)
    assert np.array_equal(tally_from_dict("top-1", values, count).is_right, hits)
    with pytest.raises(ValueError, match="bytes of hits"):
        tally_from_dict("top-1", values, count + 8)


def test_a_record_of_another_engine_is_left_out(tmp_path, caplog):
    folder = make_results(tmp_path / "a")
    record = folder / "nano.int8.orin.plugin.latency.json"
    content = json.loads(record.read_text())
    content["subject"]["sha256"] = "e" * 64
    record.write_text(json.dumps(content))
    assert results_of(folder)["int8"]["latency"] == []
    assert "is of another nano.int8.orin.plugin.engine than lies there" in caplog.text
    record.write_text("{}")
    with pytest.raises(RmtEdgeError, match=r"is not a latency record: kind is missing"):
        results_of(folder)


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match="holds no predictions"):
        write_baseline(tmp_path)
    with pytest.raises(RmtEdgeError, match="There is no folder or predictions file"):
        write_baseline(tmp_path / "nowhere")


def test_two_models_of_one_name_are_refused(tmp_path):
    make_results(tmp_path / "a")
    make_results(tmp_path / "a", name="other")
    with pytest.raises(RmtEdgeError, match="predictions of two models named int8"):
        results_of(tmp_path / "a")


def test_an_onnx_file_of_later_date_than_its_predictions_is_refused(tmp_path):
    folder = make_results(tmp_path / "a")
    make_file(folder / "nano.int8.onnx", ONNX, [NANO | {"role": SOURCE}], {"name": "int8"}, 1001, checkpoint=NANO)
    with pytest.raises(RmtEdgeError, match=r"was made from another nano\.int8\.onnx"):
        results_of(folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("no json", "is not a baseline: JSONDecodeError"),
        ("{}", "is not a baseline: KeyError 'kind'"),
        ("[]", "is not a baseline: TypeError"),
        ('{"kind": "latency"}', "is of kind 'latency'"),
        ('{"kind": "baseline", "subjects": {"a": %s}}' % (OLD % ("AA==", 9)), "1 bytes of hits for 9 images"),
        ('{"kind": "baseline", "subjects": {"a": %s}}' % (OLD % ("!", 9)), "is not a baseline: Error"),
        (
            '{"kind": "baseline", "subjects": {"a": {"hits": "AA==", "images": 8}}}',
            r"ValueError a\.task is missing",
        ),
        ('{"kind": "baseline", "subjects": []}', "is not a baseline: AttributeError"),
    ],
)
def test_other_files_are_no_baselines(tmp_path, content, match):
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(RmtEdgeError, match=match):
        read_baseline(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x.pop("latency"), r"int8\.latency is missing"),
        (lambda x: x["latency"][0].pop("machine"), r"int8\.latency\.machine is missing"),
        (lambda x: x["latency"][0].update(p50_ms=None), r"int8\.latency\.p50_ms is null"),
        (lambda x: x.update(size_bytes=[1]), r"int8\.size_bytes is \[1\]"),
    ],
)
def test_a_damaged_baseline_is_refused(tmp_path, change, match):
    path = write_baseline(make_results(tmp_path / "a"))
    content = json.loads(path.read_text())
    change(content["subjects"]["int8"])
    path.write_text(json.dumps(content))
    with pytest.raises(RmtEdgeError, match=f"is not a baseline: ValueError {match}"):
        read_baseline(path)


def test_a_missing_baseline_comes_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"no baseline .*\n.*rmt-edge baseline FOLDER --output .*b\.json"):
        read_baseline(tmp_path / "b.json")


def test_the_command_writes_where_it_is_told(capsys, tmp_path):
    folder = make_results(tmp_path / "a")
    assert main(["baseline", str(folder), "--output", str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "b.json")
    assert list(read_baseline(tmp_path / "b.json")) == ["int8"]
