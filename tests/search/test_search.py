"""The search: it keeps the budget, refuses shared images, and the recipe it writes quantises."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rmt_edge.search.search
from rmt_edge.cli import main
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import drop_interval_points
from rmt_edge.model.layers import layers_of
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import QuantizationRecipe, load_recipe
from rmt_edge.search.outcome import Outcomes
from rmt_edge.search.search import Budget, ImageSets, search
from tests.conftest import SMALL
from tests.latency_records import make_run, write_record

RECIPE = QuantizationRecipe("small", "int8", images=8, batch=8)
PEAKS = {"bandwidth_gb_s": 100.0, "fp16_tflops": 10.0, "int8_tops": 20.0}
PROFILE = DeviceProfile("test", "Test", "tensorrt", ("8.7",), ("10.3", "11.4"), 8.0, 1024, **PEAKS)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Enough to tell what is chosen, and quick."""
    monkeypatch.setattr(rmt_edge.search.search, "CANDIDATES", 5)
    monkeypatch.setattr(rmt_edge.search.search, "REFINEMENTS", 3)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three sets of labelled noise that share no image, 12 images each."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(7)
    for name in ("calibration", "selection", "test"):
        pixels = rng.integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=pixels, labels=rng.integers(0, 10, 12))
    return ImageSets(folder / "calibration.npz", folder / "selection.npz", folder / "test.npz")


@pytest.fixture(scope="module")
def broken(nano, tmp_path_factory):
    """A checkpoint of which INT8 breaks the head: one input channel is a thousand times the others, its weights 0.

    In INT8 the other channels round to 0, and the bias, which says 9, decides.
    """
    state = {name: value.clone() for name, value in nano.state_dict().items()}
    state["norm.bias"][3] = 3000.0
    state["head.weight"][:, 3] = 0.0
    state["head.bias"] = torch.zeros(10).index_fill(0, torch.tensor(9), 1e-3)
    path = tmp_path_factory.mktemp("broken") / "broken.safetensors"
    save_file(state, path, {"preprocessing": json.dumps(SMALL.to_dict())})
    return path


def result(paths):
    record = json.loads(paths[0].read_text())
    chosen = next(x for x in record["candidates"] if x["name"] == record["chosen"])
    return record, chosen


def saving_layers(record):
    return sorted(x for group in record["groups"] if group["saved_ms"] > 0 for x in group["layers"])


def test_all_that_saves_time_is_in_int8_where_nothing_is_lost(checkpoint, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(rmt_edge.search.search, "TOLERANCE", 0.0)
    paths = search(checkpoint, RECIPE, tmp_path, sets, Budget(100.0), PROFILE)
    record, chosen = result(paths)
    assert record["kind"] == "search"
    assert chosen["int8_layers"] == saving_layers(record)
    assert not [x for x in chosen["int8_layers"] if x.endswith((".pos", ".dwconv"))], "INT8 slows these down"
    assert chosen["estimated_latency_ms"] == min(x["estimated_latency_ms"] for x in record["candidates"])
    assert record["recipe_candidate"]["name"] == "recipe small"
    assert not list(tmp_path.glob("*part*"))


def test_all_is_fp16_where_the_budget_is_zero_and_everything_hurts(checkpoint, sets, tmp_path, monkeypatch):
    def hurting(self, outcomes, row, labels):
        differs = bool(outcomes.noise[row].any())
        return {"lost_points": 5.0 * differs, "lost_upper_points": 6.0, "is_within_budget": not differs}

    monkeypatch.setattr(rmt_edge.search.search.Budget, "loss", hurting)
    paths = search(checkpoint, RECIPE, tmp_path, sets, Budget(0.0), PROFILE)
    record, chosen = result(paths)
    assert chosen["int8_layers"] == []
    assert len(record["candidates"]) > 3
    recipe = load_recipe(paths[1])
    assert (recipe.precision, recipe.name) == ("fp16", "searched")
    quantize(checkpoint, recipe, tmp_path)


def test_the_group_that_int8_breaks_stays_in_fp16(broken, sets, tmp_path):
    record, chosen = result(search(broken, RECIPE, tmp_path, sets, Budget(0.0, "agreement", 0.5), PROFILE))
    assert "head" not in chosen["int8_layers"]
    assert chosen["lost_points"] == 0.0
    everything = min(record["candidates"], key=lambda x: x["estimated_latency_ms"])
    assert "head" in everything["int8_layers"]
    assert not everything["is_within_budget"]
    for row in record["candidates"]:
        assert row["is_within_budget"] == (row["agreement_percent"] == 100.0)
        faster = row["estimated_latency_ms"] * (1 + rmt_edge.search.search.TOLERANCE) < chosen["estimated_latency_ms"]
        assert not (faster and row["is_within_budget"])


def test_the_recipe_it_writes_quantises_exactly_those_layers(checkpoint, sets, tmp_path):
    paths = search(checkpoint, RECIPE, tmp_path, sets, Budget(100.0, "agreement"), PROFILE)
    _, chosen = result(paths)
    text = paths[1].read_text()
    assert "# Budget: 100 points of agreement with confidence 0.5." in text
    recipe = load_recipe(paths[1])
    assert sorted(recipe.int8_layers("rmt_nano")) == chosen["int8_layers"]
    assert (recipe.images, recipe.method, recipe.weights) == (8, "max", "per_channel")
    state = load_file(quantize(checkpoint, recipe, tmp_path, sets.calibration).path)
    suffix = ".weight_amax"
    assert sorted(x.removesuffix(suffix) for x in state if x.endswith(suffix)) == chosen["int8_layers"]


def test_a_killed_search_ends_as_a_whole_one_does(checkpoint, sets, tmp_path, monkeypatch):
    def without_times(path):
        return {key: x for key, x in json.loads(path.read_text()).items() if key not in ("seconds", "created")}

    whole, _ = search(checkpoint, RECIPE, tmp_path / "whole", sets, Budget(100.0), PROFILE)
    chosen = rmt_edge.search.search._chosen
    monkeypatch.setattr(rmt_edge.search.search, "_chosen", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search(checkpoint, RECIPE, tmp_path / "killed", sets, Budget(100.0), PROFILE)
    monkeypatch.setattr(rmt_edge.search.search, "_chosen", chosen)
    monkeypatch.setattr(rmt_edge.search.outcome, "_run_batch", None)  # every outcome is in the partial files
    path, _ = search(checkpoint, RECIPE, tmp_path / "killed", sets, Budget(100.0), PROFILE)
    assert without_times(path) == without_times(whole)


def outcomes_of(reference, quantised):
    n = len(reference)
    return Outcomes(np.array(reference), np.ones(n), np.array([quantised]), np.zeros((1, n)), np.zeros((1, n)))


def test_the_budget_is_held_against_the_loss_with_confidence():
    labels = np.zeros(1000, np.int64)
    outcomes = outcomes_of([0] * 1000, [1] + [0] * 999)  # one image lost of 1,000: 0.1 points

    def is_within(points, confidence):
        return Budget(points, "accuracy", confidence).loss(outcomes, 0, labels)["is_within_budget"]

    assert is_within(0.1, 0.5)
    assert not is_within(0.09, 0.5)
    upper = Budget(1.0, "accuracy", 0.975).loss(outcomes, 0, labels)["lost_upper_points"]
    assert upper == pytest.approx(drop_interval_points(labels == 0, outcomes.classes[0] == 0)[1])
    assert upper > Budget(1.0, "accuracy", 0.84).loss(outcomes, 0, labels)["lost_upper_points"] > 0.1
    assert is_within(upper, 0.975)
    assert not is_within(upper, 0.99)


def test_of_equally_fast_candidates_the_one_closest_to_float32_is_chosen():
    def row(name, latency_ms, kl_nats, is_within_budget=True):
        latency = {"estimated_latency_ms": latency_ms, "measured_latency_ms": None}
        return {"name": name, "kl_nats": kl_nats, "is_within_budget": is_within_budget} | latency

    rows = [row("slow", 1.05, 0.0), row("close", 1.02, 1e-5), row("fast", 1.0, 1e-3), row("lossy", 0.9, 1e-2, False)]
    assert rmt_edge.search.search._chosen(rows)["name"] == "close"
    assert rmt_edge.search.search._chosen([rows[0], *rows[2:]])["name"] == "fast"


def test_few_images_vouch_for_nothing_but_fp16(checkpoint, sets, tmp_path):
    """12 images without a flip leave a loss of points possible."""
    _, chosen = result(search(checkpoint, RECIPE, tmp_path, sets, Budget(0.1, "agreement", 0.975), PROFILE))
    assert chosen["int8_layers"] == []
    assert chosen["lost_upper_points"] > 0.1


def test_agreement_counts_every_change_and_top1_only_those_that_lose():
    labels = np.array([1, 0, 0, 0])
    outcomes = outcomes_of([0, 0, 0, 0], [1, 1, 0, 0])  # one image won, one lost
    assert Budget(50.0).loss(outcomes, 0, labels)["lost_points"] == 0.0
    assert Budget(50.0, "agreement").loss(outcomes, 0, None)["lost_points"] == 50.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), r"--budget is -1[\s\S]*0 to 100"),
        ((float("nan"),), r"--budget is nan"),
        ((1.0, "top5"), r"--metric is 'top5'[\s\S]*accuracy, agreement"),
        ((1.0, "accuracy", 1.0), r"--confidence is 1[\s\S]*at least 0\.5"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(RmtEdgeError, match=message):
        Budget(*arguments)


@pytest.mark.parametrize("role", ["calibration", "test"])
def test_a_selection_set_with_another_role_is_refused(checkpoint, sets, tmp_path, role):
    same = ImageSets(sets.calibration, getattr(sets, role), sets.test)
    with pytest.raises(RmtEdgeError, match=rf"selection set .* is the {role} set[\s\S]*--selection"):
        search(checkpoint, RECIPE, tmp_path, same, Budget(1.0), PROFILE)


@pytest.mark.parametrize("role", ["calibration", "test"])
def test_a_shared_image_is_found_by_its_pixels(checkpoint, sets, tmp_path, role):
    with np.load(getattr(sets, role)) as other, np.load(sets.selection) as own:
        images = np.concatenate([own["images"][:3], other["images"][5:6]])
    np.savez(tmp_path / "mixed.npz", images=images, labels=np.zeros(4, np.int64))
    mixed = ImageSets(sets.calibration, tmp_path / "mixed.npz", sets.test)
    with pytest.raises(RmtEdgeError, match=rf"1 images of the selection .* are in the {role} set .* the first is 3"):
        search(checkpoint, RECIPE, tmp_path, mixed, Budget(1.0), PROFILE)


def test_a_budget_of_top1_asks_for_labels(checkpoint, sets, tmp_path):
    with np.load(sets.selection) as arrays:
        np.savez(tmp_path / "bare.npz", images=arrays["images"])
    with pytest.raises(RmtEdgeError, match=r"bare\.npz has no labels[\s\S]*--metric agreement"):
        search(checkpoint, RECIPE, tmp_path, ImageSets(sets.calibration, tmp_path / "bare.npz"), Budget(1.0), PROFILE)


def latency_record(path, recipe, p50_ms):
    return write_record(path, "x.engine", [make_run([p50_ms])], precision=recipe.precision, recipe=recipe.to_dict())


def test_measured_latencies_decide_where_there_are_any(checkpoint, sets, tmp_path):
    """On this device INT8 was measured to be slower than FP16, whatever the estimate says."""
    recipes = [QuantizationRecipe("fp16", "fp16"), QuantizationRecipe("ffn", "int8", int8=("fc1", "fc2"))]
    records = [latency_record(tmp_path / f"{x.name}.json", x, ms) for x, ms in zip(recipes, (1.0, 2.0), strict=True)]
    record, chosen = result(search(checkpoint, RECIPE, tmp_path, sets, Budget(100.0), PROFILE, measured=records))
    assert chosen["name"] == "recipe fp16 of fp16.json"
    assert chosen["measured_latency_ms"] == 1.0
    slower = next(x for x in record["candidates"] if x is not chosen)
    assert slower["estimated_latency_ms"] < chosen["estimated_latency_ms"]
    assert slower["int8_layers"] == sorted(x.name for x in layers_of("rmt_nano") if x.kind in ("fc1", "fc2"))
    assert "# Measured latency on test, batch 1: 1.0000 ms." in (tmp_path / "nano.searched.toml").read_text()


def test_no_measured_recipe_within_the_budget_is_said(broken, sets, tmp_path):
    path = latency_record(tmp_path / "all.json", QuantizationRecipe("all", "int8", int8=("*",)), 1.0)
    with pytest.raises(RmtEdgeError, match=r"None of 1 candidates keeps the budget[\s\S]*all[\s\S]*--budget"):
        search(broken, RECIPE, tmp_path, sets, Budget(0.0, "agreement", 0.5), PROFILE, measured=[path])


def test_the_command_prints_both_paths(checkpoint, sets, tmp_path, capsys):
    profile = {key: x for key, x in PROFILE.to_dict().items() if x is not None}
    (tmp_path / "device.toml").write_text("\n".join(f"{key} = {json.dumps(x)}" for key, x in profile.items()))
    (tmp_path / "small.toml").write_text('precision = "int8"\nimages = 8\nbatch = 8\n')
    arguments = ["--calibration", str(sets.calibration), "--selection", str(sets.selection), "--test", str(sets.test)]
    arguments += ["--budget", "100", "--images", "4", "--device", str(tmp_path / "device.toml")]
    arguments += ["--recipe", str(tmp_path / "small.toml"), "--output", str(tmp_path)]
    assert main(["search", str(checkpoint), *arguments]) == 0
    expected = [str(tmp_path / "nano.search.json"), str(tmp_path / "nano.searched.toml")]
    assert capsys.readouterr().out.split() == expected
