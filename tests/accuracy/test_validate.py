"""An engine over a data set, held to predictions of the float32 model that a workstation wrote.

The engine itself needs its GPU. Here it is a file with an engine's manifest, run by its ONNX file through ONNX Runtime.
"""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.accuracy.reference import reference_predictions, validate_against_checkpoint
from rmt_edge.accuracy.resume import partial_path
from rmt_edge.accuracy.subject import subject_of
from rmt_edge.accuracy.validate import validate
from rmt_edge.artifact import ENGINE, ONNX, Artifact, manifest_path, read_artifact, write_manifest, written_whole
from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime.onnx_runner import OnnxRunner, open_onnx
from tests.commands import call
from tests.conftest import SMALL


def engine_of(onnx, folder, minimum=1, maximum=32, **changes) -> Artifact:
    """A file with the manifest that `build` writes beside an engine."""
    source = read_artifact(onnx, ONNX)
    details = source.details | {
        "profile": {"backend": "tensorrt", "min_batch": minimum, "max_batch": maximum},
        "backend": {"name": "tensorrt", "version": "10.3.0"},
    }
    path = folder / f"{source.path.stem}.orin.engine"
    with written_whole(path) as temporary:
        temporary.write_bytes(b"an engine")
        return write_manifest(
            temporary, path, kind=ENGINE, parents=[source.as_parent()], recipe=source.recipe,
            details=details | changes, seconds=0,
        )  # fmt: skip


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """60 tiny images in ten class folders."""
    folder = tmp_path_factory.mktemp("images") / "set"
    rng = np.random.default_rng(3)
    for i in range(60):
        (folder / f"class{i % 10}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"class{i % 10}" / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def reference(checkpoint, class_folders, tmp_path_factory):
    return reference_predictions(checkpoint, class_folders, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def engine(onnx_files, tmp_path):
    return engine_of(onnx_files["int8"], tmp_path)


@pytest.fixture
def runner(onnx_files):
    return open_onnx(onnx_files["int8"])


def test_an_engine_is_held_to_the_reference_over_a_data_set(
    engine, runner, reference, class_folders, onnx_files, checkpoint, tmp_path
):
    found = validate(engine, class_folders, reference, max_drop=100, runner=runner)
    assert found.path == tmp_path / "nano.int8.orin.predictions.npz"
    expected = validate_against_checkpoint(onnx_files["int8"], checkpoint, class_folders, tmp_path / "o", max_drop=100)
    for name in ("percent", "reference_percent", "drop_points", "classification", "per_class", "drawn", "images"):
        assert found.details[name] == expected.details[name], name
    assert (rows_in(found)["classes"] == rows_in(expected)["classes"]).all()
    assert [(x["role"], x["name"]) for x in found.manifest.parents] == [
        ("source", engine.path.name), ("checkpoint", checkpoint.name), ("data", "set"),
    ]  # fmt: skip
    details = found.details
    assert details["runtime"].startswith("tensorrt 10.3.0") and details["machine"]["python"]
    assert details["reference"] == {"sha256": reference.sha256, "runtime": "PyTorch, float32, CPU"}
    assert details["drawn"] == {"images": 60, "of": 60, "evenly_over": "all"} | {
        "indices_sha256": open_dataset(class_folders).drawing()["indices_sha256"]
    }
    assert details["worst_images"][0]["name"].startswith("class")


def test_a_file_is_what_its_manifest_says(engine, runner, reference, class_folders, tmp_path):
    """An engine under another name, by its path."""
    other = tmp_path / "renamed"
    for path in (engine.path, manifest_path(engine.path)):
        shutil.copy(path, other if path == engine.path else manifest_path(other))
    found = validate(other, class_folders, reference, max_drop=100, runner=runner)
    assert found.details["runtime"].startswith("tensorrt")
    with pytest.raises(RmtEdgeError, match=r"is of kind 'predictions'.[\s\S]*this step takes 'ONNX model'"):
        validate(reference.path, class_folders, reference, runner=runner)


@pytest.mark.parametrize(
    ("minimum", "maximum", "sizes"), [(1, 32, [32, 28]), (32, 32, [32, 32]), (1, 100, [50, 10]), (60, 64, [60])]
)
def test_batches_stay_within_the_engine_s_profile(
    onnx_files, runner, reference, class_folders, tmp_path, minimum, maximum, sizes
):
    seen = []
    engine = engine_of(onnx_files["int8"], tmp_path, minimum, maximum)

    def run(images):
        seen.append(len(images))
        return runner(images)

    found = validate(engine, class_folders, reference, max_drop=100, runner=run)
    assert seen == sizes and len(rows_in(found)["classes"]) == 60


@pytest.mark.parametrize(
    ("side", "minimum", "maximum", "expected"), [(224, 1, 64, 50), (1024, 1, 64, 3), (1024, 8, 64, 8)]
)
def test_a_batch_is_bounded_by_the_profile_and_by_memory(onnx_files, tmp_path, side, minimum, maximum, expected):
    engine = engine_of(onnx_files["int8"], tmp_path, minimum, maximum)
    assert subject_of(engine).batch_of(Preprocessing(side, side)) == expected


def test_the_engine_is_opened_here_if_it_is_not_yet(engine, runner, reference, class_folders, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(
        "rmt_edge.accuracy.validate.open_runner",
        lambda *given: opened.append(given) or nullcontext(runner),
    )
    validate(engine, class_folders, reference, max_drop=100, libraries=tmp_path)
    assert opened == [(engine, tmp_path)]


def test_an_onnx_file_is_opened_too(onnx_files, reference, class_folders, tmp_path):
    path = onnx_files["int8"]
    opened, given = (
        validate(path, class_folders, reference, tmp_path / x, max_drop=100, runner=y)
        for x, y in (("opened", None), ("given", OnnxRunner(path)))
    )
    assert opened.details["per_class"] == given.details["per_class"]


def killed(runner):
    """A runner that does not live beyond one batch."""
    seen = []

    def run(images):
        if seen:
            raise KeyboardInterrupt
        seen.append(len(images))
        return runner(images)

    return run


def test_a_killed_run_continues(engine, runner, reference, class_folders, tmp_path):
    whole = validate(engine, class_folders, reference, tmp_path / "whole", max_drop=100, runner=runner)
    with pytest.raises(KeyboardInterrupt):
        validate(engine, class_folders, reference, tmp_path / "out", max_drop=100, runner=killed(runner))
    assert partial_path(tmp_path / "out" / whole.path.name).is_file()
    found = validate(engine, class_folders, reference, tmp_path / "out", max_drop=100, runner=runner)
    assert found.details["resumed_images"] == 32 and not list((tmp_path / "out").glob("*.part"))
    assert found.path.read_bytes() == whole.path.read_bytes()


def test_a_run_of_other_images_is_not_gone_on_with(engine, runner, checkpoint, class_folders, tmp_path):
    """The draw is part of what decides the predictions."""
    for images in (40, 60):
        reference = reference_predictions(checkpoint, class_folders, tmp_path, images=images)
        with pytest.raises(KeyboardInterrupt):
            validate(engine, class_folders, reference, runner=killed(runner))
    found = validate(
        engine, class_folders, reference_predictions(checkpoint, class_folders, tmp_path, images=40), max_drop=100,
        runner=runner,
    )  # fmt: skip
    assert found.details["resumed_images"] == 0 and found.details["images"] == 40


def test_some_of_the_images_are_drawn_evenly_and_recorded(engine, runner, checkpoint, class_folders, tmp_path):
    reference = reference_predictions(checkpoint, class_folders, tmp_path, images=20)
    found = validate(engine, class_folders, reference, max_drop=100, runner=runner)
    with np.load(found.path) as arrays:
        assert np.bincount(arrays["labels"]).tolist() == [2] * 10
    chosen = open_dataset(class_folders).drawn(20)
    assert found.details["drawn"] == chosen.drawing() == reference.details["drawn"]
    assert found.details["drawn"]["evenly_over"] == "classes" and found.details["images"] == 20
    worst = found.details["worst_images"]
    assert all(x["name"] == chosen.name(x["index"]) for x in worst)
    again = reference_predictions(checkpoint, class_folders, tmp_path)
    assert again.details["images"] == 60, "a reference of some images does not serve for all"


def changed(reference, folder, **changes):
    """The reference with other facts in its manifest."""
    path = folder / "other.reference.predictions.npz"
    shutil.copy(reference.path, path)
    manifest = json.loads(manifest_path(reference.path).read_text()) | {"name": path.name}
    for key, value in changes.items():
        manifest[key] = manifest[key] | value if isinstance(value, dict) else value
    manifest_path(path).write_text(json.dumps(manifest))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"weights": "model_ema"}}, "is of the weights model_ema, nano.int8.orin.engine of None"),
        ({"recipe": {"preprocessing": SMALL.to_dict() | {"crop_ratio": 0.5}}}, "preprocessing: crop_ratio 0.5 and 1.0"),
        ({"details": {"drawn": {"images": 60, "of": 60, "evenly_over": "all", "indices_sha256": "0"}}}, "other images"),
    ],
)
def test_a_reference_of_another_model_input_or_images_is_refused(
    engine, runner, reference, class_folders, tmp_path, changes, message
):
    with pytest.raises(RmtEdgeError, match=message):
        validate(engine, class_folders, changed(reference, tmp_path, **changes), runner=runner)


def test_a_reference_of_another_checkpoint_is_refused(onnx_files, runner, reference, class_folders, tmp_path):
    other = {"name": "other.pth", "sha256": "1" * 64}
    engine = engine_of(onnx_files["int8"], tmp_path, checkpoint=other)
    with pytest.raises(
        RmtEdgeError, match=r"of nano\.safetensors .*was made from other\.pth[\s\S]*validate FILE\.onnx"
    ):
        validate(engine, class_folders, reference, runner=runner)


def test_predictions_that_are_no_reference_are_refused(engine, runner, reference, class_folders, tmp_path):
    found = validate(engine, class_folders, reference, max_drop=100, runner=runner)
    with pytest.raises(RmtEdgeError, match=r"holds the predictions of nano\.int8\.orin\.engine"):
        validate(engine, class_folders, found, tmp_path / "again", runner=runner)


def test_another_data_set_is_refused(engine, runner, reference, images):
    with pytest.raises(RmtEdgeError, match=r"is of the images set .*, not of .*noise\.npz"):
        validate(engine, images, reference, runner=runner)


def test_logits_of_another_number_of_classes_are_refused(engine, reference, class_folders):
    with pytest.raises(RmtEdgeError, match=r"the logits are \(32, 1000\), expected \(32, 10\)"):
        validate(engine, class_folders, reference, runner=lambda x: {"logits": np.zeros((len(x), 1000), np.float32)})


def test_the_command_validates_an_engine_over_a_data_set(
    capsys, engine, runner, reference, class_folders, monkeypatch, onnx_files, tmp_path
):
    monkeypatch.setattr("rmt_edge.accuracy.validate.open_runner", lambda *_: nullcontext(runner))
    given = ["--data", class_folders, "--reference", reference.path, "--max-drop", 100, "--output", tmp_path / "out"]
    status, paths, errors = call(capsys, "validate", engine.path, onnx_files["int8"], *given)
    assert status == 0, errors
    assert paths == [str(tmp_path / "out" / f"nano.int8{x}.predictions.npz") for x in (".orin", "")]
    assert rows_in(read_artifact(paths[0], "predictions"))["classes"].shape == (60, 5)
    status, _, errors = call(capsys, "validate", engine.path, "--data", class_folders)
    assert status == 2 and "--data and --reference go together" in errors


def test_the_command_says_that_pillow_is_missing(engine, reference, class_folders, run_python, tmp_path):
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'PIL'\", name='PIL')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from rmt_edge.cli import main; sys.exit(main())"
    result = run_python("-c", code, "validate", engine.path, "--data", class_folders, "--reference", reference.path)
    assert result.returncode == 2 and "pip install pillow" in result.stderr, result.stderr


def test_a_device_needs_neither_torch_nor_onnx_runtime(run_python):
    code = "import sys, rmt_edge.accuracy.validate; print(*sorted(x.partition('.')[0] for x in sys.modules))"
    loaded = set(run_python("-c", code).stdout.split())
    assert "PIL" in loaded and not loaded & {"torch", "onnx", "onnxruntime", "modelopt", "safetensors"}
