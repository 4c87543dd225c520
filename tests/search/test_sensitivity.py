"""Sensitivity: the layer that INT8 breaks is found, and a killed run gives what a whole one does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import rmt_edge.search.outcome
import rmt_edge.search.sensitivity
from rmt_edge.cli import main
from rmt_edge.data.dataset import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import kl_nats, sqnr_db
from rmt_edge.model.checkpoint import open_checkpoint
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.layers import layers_of
from rmt_edge.model.rmt import create_model
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers, first_step, steps_of
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.search.outcome import calibrated_subject, evaluate, summary
from rmt_edge.search.sensitivity import groups_of, sensitivity
from tests.conftest import SMALL

RECIPE = QuantizationRecipe("small", "int8", images=8, batch=8)
BROKEN = "stages.1.blocks.1.fc2"


@pytest.fixture(scope="module")
def subject(checkpoint, images, tmp_path_factory):
    return calibrated_subject(open_checkpoint(checkpoint), RECIPE, images, tmp_path_factory.mktemp("ranges"))


@pytest.fixture(scope="module")
def broken(nano, tmp_path_factory):
    """A checkpoint of the same function in float32, one channel before one fc2 a thousand times the others."""
    state = {name: value.clone() for name, value in nano.state_dict().items()}
    block = "layers.1.blocks.1.ffn"
    state[f"{block}.fc1.bias"][3] = 3000.0  # GELU lets it through unchanged: fc2's input range follows it
    state[f"{block}.fc2.weight"][:, 3] = 0.0
    path = tmp_path_factory.mktemp("broken") / "broken.safetensors"
    save_file(state, path, {"preprocessing": json.dumps(SMALL.to_dict())})
    return path


def without_times(path):
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in ("seconds", "created")}


def test_the_steps_are_the_forward_pass(nano):
    folded = folded_from_model(nano, 40, 48)
    x = expected = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _, step in steps_of(folded):
            x = step(x)
        assert torch.equal(x, folded(expected))


@pytest.mark.parametrize("variant", ["rmt_nano", "rmt_s_token_label"])
def test_every_layer_is_in_a_step(variant):
    model = folded_from_model(create_model(variant, 10).eval(), 32, 32)
    steps = steps_of(model)
    for layer in layers_of(variant):
        prefix = steps[first_step(steps, [layer.name])][0]
        assert layer.name.startswith(prefix) or (prefix == "classify" and layer.stage is None), layer
    assert first_step(steps, ["head", "stages.2.blocks.1.fc1", "stem.3"]) == 0
    assert first_step(steps, []) == len(steps)


def test_running_from_a_block_on_changes_nothing(subject, images, tmp_path):
    dataset = open_dataset(images).drawn(6)
    sets = {layer.name: frozenset({layer.name}) for layer in layers_of("rmt_nano")}
    outcomes = evaluate(subject, sets, dataset, tmp_path / "x", "test")
    batch = torch.from_numpy(next(dataset.batches(SMALL, 6)))
    with torch.no_grad(), FakeQuantizedLayers(subject.model, subject.ranges, np.dtype(np.float16)) as layers:
        reference = subject.model(batch).numpy()
        for row, names in enumerate(sets.values()):
            layers.switch_to(names)
            logits = subject.model(batch).numpy()
            np.testing.assert_array_equal(outcomes.classes[row], logits.argmax(1))
            found = summary(outcomes, row, None)
            assert found["sqnr_db"] == pytest.approx(sqnr_db(logits, reference), rel=1e-5)
            assert found["kl_nats"] == pytest.approx(kl_nats(reference, logits).mean(), rel=1e-3, abs=1e-9)


def test_switching_back_leaves_the_model_as_it_was(subject):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with FakeQuantizedLayers(subject.model, subject.ranges, np.dtype(np.float16)) as layers:
        layers.switch_to({"head", "stem.0", BROKEN})
        assert not torch.equal(subject.model.head.weight, before["head.weight"])
        layers.switch_to({"stem.0"})
        assert torch.equal(subject.model.head.weight, before["head.weight"])
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_kl_divergence_of_a_known_pair():
    reference, actual = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert kl_nats(reference, actual)[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert kl_nats(reference + 1000.0, reference)[0] == pytest.approx(0.0, abs=1e-12)


def test_groups_cover_what_they_are_named_after():
    names = {layer.name for layer in layers_of("rmt_nano")}
    for by in ("kind", "cell"):
        groups = groups_of("rmt_nano", [by])
        assert set().union(*(x.layers for x in groups)) == names
        assert sum(len(x.layers) for x in groups) == len(names)
    assert [x.name for x in groups_of("rmt_nano", ["stage"])] == [f"stage {i}" for i in range(4)]
    assert len(groups_of("rmt_nano", ["block"])) == 6
    with pytest.raises(RmtEdgeError, match=r"--by is 'layer'[\s\S]*kind, stage, block, cell"):
        groups_of("rmt_nano", ["layer"])


def test_a_layer_that_int8_breaks_is_the_most_sensitive(broken, images, tmp_path):
    path = sensitivity(broken, RECIPE, tmp_path, images, images, 12)
    record = json.loads(path.read_text())
    assert record["kind"] == "sensitivity"
    for by, expected in (("kind", "fc2"), ("stage", "stage 1"), ("block", "stages.1.blocks.1")):
        groups = [x for x in record["groups"] if x["by"] == by]
        worst = max(groups, key=lambda x: x["kl_nats"])
        assert worst["group"] == expected
        assert BROKEN in worst["layers"]
        assert worst["sqnr_db"] == min(x["sqnr_db"] for x in groups)
    assert not list(tmp_path.glob("*part*"))


def test_a_killed_run_goes_on_and_ends_as_a_whole_one_does(checkpoint, images, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(rmt_edge.search.outcome, "MAX_BATCH", 4)
    whole = sensitivity(checkpoint, RECIPE, tmp_path / "whole", images, images, 12, ["kind"])
    run_batch, runs = rmt_edge.search.outcome._run_batch, []

    def killed(*arguments):
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(1)
        return run_batch(*arguments)

    monkeypatch.setattr(rmt_edge.search.outcome, "_run_batch", killed)
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        sensitivity(checkpoint, RECIPE, folder, images, images, 12, ["kind"])
    assert not (folder / whole.name).exists()

    runs.clear()
    monkeypatch.setattr(rmt_edge.search.outcome, "_run_batch", lambda *x: runs.append(1) or run_batch(*x))
    monkeypatch.setattr(rmt_edge.search.outcome, "calibrate", None)  # the ranges are still there
    caplog.set_level("INFO")
    path = sensitivity(checkpoint, RECIPE, folder, images, images, 12, ["kind"])
    assert "continuing after 8 of 12 images" in caplog.text
    assert len(runs) == 1
    assert without_times(path) == without_times(whole)


def test_a_partial_file_of_other_images_is_not_gone_on_with(subject, images, tmp_path, caplog):
    caplog.set_level("INFO")
    dataset, sets, path = open_dataset(images), {"head": frozenset({"head"})}, tmp_path / "x"
    first = evaluate(subject, sets, dataset.drawn(4), path, "test")
    evaluate(subject, sets, dataset.drawn(6), path, "test")
    assert "starting anew" in caplog.text
    caplog.clear()
    again = evaluate(subject, sets, dataset.drawn(4), path, "test")
    np.testing.assert_array_equal(again.kl_nats, first.kl_nats)


def test_without_labels_there_is_agreement_and_no_top1(checkpoint, images, tmp_path):
    with np.load(images) as arrays:
        np.savez(tmp_path / "bare.npz", images=arrays["images"][:8])
    path = sensitivity(checkpoint, RECIPE, tmp_path, images, tmp_path / "bare.npz", by=["stage"])
    record = json.loads(path.read_text())
    assert record["images"] == 8
    assert record["reference_percent"] is None
    for group in record["groups"]:
        assert group["percent"] is group["drop_points"] is group["drop_interval_points"] is None
        assert 0 <= group["agreement_percent"] <= 100


def test_of_class_folders_every_class_is_measured_on(checkpoint, images, tmp_path):
    """Images lie class by class: the first 20 of 60 would be of four classes."""
    rng = np.random.default_rng(3)
    for i in range(60):
        (tmp_path / "set" / f"c{i % 10}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "set" / f"c{i % 10}" / f"{i}.png")
    seen, evaluate = [], rmt_edge.search.sensitivity.evaluate
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rmt_edge.search.sensitivity, "evaluate", lambda *x: seen.append(x[2]) or evaluate(*x))
        path = sensitivity(checkpoint, RECIPE, tmp_path, images, tmp_path / "set", 20, ["stage"], device="cpu")
    assert np.bincount(seen[0].labels).tolist() == [2] * 10
    record = json.loads(path.read_text())
    assert record["drawn"] == open_dataset(tmp_path / "set").drawn(20).drawing()
    assert record["drawn"]["evenly_over"] == "classes" and record["images"] == 20
    assert record["calibration_images"] == open_dataset(images).drawn(8).drawing()
    assert record["torch_device"] == "CPU"


def test_more_images_than_there_are_is_refused(checkpoint, images, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"--images is 61[\s\S]*holds 60"):
        sensitivity(checkpoint, RECIPE, tmp_path, images, images, 61)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (QuantizationRecipe("half", "fp16"), r"half is fp16[\s\S]*INT8 ranges"),
        (QuantizationRecipe("smooth", "int8", method="smoothquant"), r"smooth uses smoothquant[\s\S]*another method"),
    ],
)
def test_a_recipe_without_one_set_of_ranges_is_refused(checkpoint, images, tmp_path, recipe, message):
    with pytest.raises(RmtEdgeError, match=message):
        sensitivity(checkpoint, recipe, tmp_path, images, images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_named(subject, images, tmp_path, value):
    bias = subject.model.head.bias.data
    subject.model.head.bias.data = torch.full_like(bias, value)
    try:
        with pytest.raises(RmtEdgeError, match="float32 model has NaN or infinite logits"):
            evaluate(subject, {"none": frozenset()}, open_dataset(images).drawn(4), tmp_path / "x", "test")
    finally:
        subject.model.head.bias.data = bias


def test_the_command_prints_the_path_and_a_table(checkpoint, images, tmp_path, capsys):
    recipe = tmp_path / "small.toml"
    recipe.write_text('precision = "int8"\nimages = 8\nbatch = 8\n')
    arguments = ["--calibration", str(images), "--data", str(images), "--images", "4", "--by", "kind"]
    arguments += ["--recipe", str(recipe), "--output", str(tmp_path)]
    assert main(["sensitivity", str(checkpoint), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "nano.sensitivity.json")
    assert "downsample" in printed.err
