"""Packing: what goes into a bundle, the same bytes for the same inputs, and what is refused."""

import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rmt_edge.artifact import PLUGIN_ONNX, manifest_path, plugin_form_path, read_artifact, sha256_of
from rmt_edge.bundle.bundle import INDEX, open_bundle, read_folder, subset_of, unpack
from rmt_edge.bundle.pack import ARCHITECTURES, pack
from rmt_edge.cli import main
from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.preprocess import normalise
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import library_name
from tests.commands import call
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Files with the records that plugin/build.py writes: pack reads libraries without loading them."""
    folder = tmp_path_factory.mktemp("libraries")
    for architecture in ARCHITECTURES:
        fake_library(folder, architecture)
    return folder


def fake_library(folder, processor, **changes):
    path = folder / library_name(processor)
    path.write_bytes(f"library for {processor}".encode())
    info = {"ops": ["Retention"], "plugin_version": "1", "architecture": processor, "cubin_sms": [86], "ptx_sms": []}
    info |= {"hash": "0" * 64, "sha256": sha256_of(path)} | changes
    manifest_path(path).write_text(json.dumps(info))
    return path


@pytest.fixture
def models(onnx_files, tmp_path):
    """A folder with FP16 and INT8 as `export` leaves them."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("fp16", "int8"):
        for path in (onnx_files[name], plugin_form_path(onnx_files[name])):
            shutil.copy(path, folder)
            shutil.copy(manifest_path(path), folder)
    return folder


@pytest.fixture
def packed(models, checkpoint, images, libraries, tmp_path):
    return pack([models], checkpoint, images, libraries, tmp_path / "b.rmtedge", images=40)


def test_a_bundle_holds_the_models_with_their_chain_the_libraries_and_the_subset(packed, models, libraries, checkpoint):
    folder = unpack(packed)
    index = read_folder(folder)
    assert [(x.onnx, x.recipe, x.precision) for x in index.models] == [
        ("nano.fp16.onnx", "fp16", "fp16"), ("nano.int8.onnx", "int8", "int8"),
    ]  # fmt: skip
    for path in models.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert read_artifact(folder / "nano.int8.plugin.onnx", PLUGIN_ONNX).recipe["precision"] == "int8"
    for path in libraries.iterdir():
        assert (folder / "libraries" / path.name).read_bytes() == path.read_bytes()
    assert index.checkpoint["name"] == checkpoint.name and set(index.libraries) == set(ARCHITECTURES)
    assert len(list(folder.rglob("*.*"))) == len(index.members) + 1 == 8 + 4 + 4 + 1


def test_the_subset_is_what_the_float32_model_saw_and_said(packed, images, nano):
    folder = unpack(packed)
    index, dataset = read_folder(folder), open_dataset(images)
    subset, logits = subset_of(folder, index)
    chosen = dataset.drawn(40)
    assert (subset.images == chosen.pixels(list(range(40)), SMALL)).all()
    assert (subset.labels == chosen.labels).all() and subset.names == [chosen.name(i) for i in range(40)]
    with torch.no_grad():
        expected = nano(torch.from_numpy(normalise(subset.images, SMALL))).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert index.validation["dataset"] == {"name": "noise.npz", "sha256": dataset.sha256, "images": 60}
    right = 100 * (logits.argmax(1) == subset.labels).mean()
    assert index.validation["reference_percent"] == pytest.approx(right)


def test_the_same_inputs_give_the_same_bytes(packed, models, checkpoint, images, libraries, tmp_path, run_python):
    """In another process, from another folder, with files of another time."""
    moved = Path(shutil.copytree(models, tmp_path / "elsewhere"))
    for path in moved.iterdir():
        os.utime(path, (0, 0))
        path.chmod(0o600)
    result = run_python(
        "-m", "rmt_edge.cli", "pack", moved, "--checkpoint", checkpoint, "--data", images, "--images", "40",
        "--libraries", libraries, "--output", tmp_path / "again" / "c.rmtedge", PYTHONHASHSEED="7",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(tmp_path / "again" / "c.rmtedge")]
    assert (tmp_path / "again" / "c.rmtedge").read_bytes() == packed.read_bytes()


def test_recipes_files_and_the_default_name(models, checkpoint, images, libraries):
    path = pack([models], checkpoint, images, libraries, images=1, recipes=["int8"])
    assert path == models / "nano.rmtedge"
    assert [x.recipe for x in open_bundle(path).models] == ["int8"]
    files = [models / "nano.int8.onnx", models / "nano.fp16.onnx"]
    path = pack(files, checkpoint, images, libraries, images=1)
    assert [x.recipe for x in open_bundle(path).models] == ["fp16", "int8"]


def test_the_command_packs_for_the_processors_named(capsys, models, checkpoint, images, libraries, tmp_path):
    arguments = ["pack", models, "--checkpoint", checkpoint, "--data", images, "--images", 2, "--libraries", libraries]
    status, (path,), errors = call(capsys, *arguments, "--arch", "aarch64", "--output", tmp_path / "a.rmtedge")
    assert status == 0, errors
    assert list(open_bundle(Path(path)).libraries) == ["aarch64"]
    status, (path,), _ = call(capsys, *arguments, "--without-libraries", "--output", tmp_path / "b.rmtedge")
    assert status == 0 and open_bundle(Path(path)).libraries == {}


def test_the_default_folder_is_deployed(capsys, models, checkpoint, images, libraries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.rename(tmp_path / "deployed")
    rest = ["--checkpoint", checkpoint, "--data", images, "--images", 2, "--libraries", libraries]
    assert call(capsys, "pack", *rest)[:2] == (0, ["deployed/nano.rmtedge"])
    assert main(["unpack", "deployed/nano.rmtedge"]) == 0
    assert capsys.readouterr().out.split() == ["deployed/nano"]
    assert (tmp_path / "deployed" / "nano" / INDEX).is_file()


@pytest.fixture
def refused(models, checkpoint, images, libraries, tmp_path):
    """A function that packs with one argument changed, and expects a message and no file."""

    def run(message, **changes):
        given = {"sources": [models], "checkpoint": checkpoint, "data": images, "libraries": libraries, "images": 40}
        before = sorted(models.iterdir())
        with pytest.raises(RmtEdgeError, match=message):
            pack(**given | changes)
        assert sorted(models.iterdir()) == before

    return run


@pytest.mark.parametrize("count", [61, 0, -1])
def test_more_images_than_there_are_or_none_are_refused(refused, count):
    refused(rf"to have {count} images[\s\S]*has 60[\s\S]*--images", images=count)


def test_the_default_number_of_images_is_512(refused):
    refused("to have 512 images", images=None)


def test_data_without_labels_or_with_others_is_refused(refused, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((50, 40, 48), np.uint8))
    refused(r"a\.npz has no labels", data=tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((50, 40, 48), np.uint8), labels=np.arange(50))
    refused("The classifier has 10 classes", data=tmp_path / "b.npz")


def test_another_checkpoint_is_refused(refused, checkpoint, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(checkpoint.read_bytes() + b" ")
    refused(r"was made from nano\.safetensors .* not from .*other", checkpoint=tmp_path / "other.safetensors")
    refused("There is no checkpoint at nowhere", checkpoint=Path("nowhere"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint", {"name": "other.pth", "sha256": "1" * 64}), ("preprocessing", SMALL.to_dict() | {"height": 64})],
)
def test_models_of_different_checkpoints_or_input_sizes_are_refused(refused, models, name, value):
    beside = manifest_path(models / "nano.int8.onnx")
    manifest = json.loads(beside.read_text())
    manifest["details"][name] = value
    beside.write_text(json.dumps(manifest))
    refused(rf"nano\.fp16\.onnx and nano\.int8\.onnx differ in {name}[\s\S]*Pack them apart")


def test_a_model_without_its_plugin_form_or_with_another_s_is_refused(refused, models):
    shutil.copy(models / "nano.fp16.plugin.onnx", models / "nano.int8.plugin.onnx")
    shutil.copy(models / "nano.fp16.plugin.onnx.json", models / "nano.int8.plugin.onnx.json")
    refused(r"was made from another nano\.int8\.onnx")
    (models / "nano.int8.plugin.onnx").unlink()
    refused(r"nano\.int8\.onnx has no plugin form[\s\S]*Export it again")


def test_a_changed_model_is_refused(refused, models):
    path = models / "nano.int8.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    refused("is not the file its manifest describes")


def test_no_model_or_an_unknown_recipe_is_refused(refused, tmp_path):
    refused("There is no file .*nothing", sources=[tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    refused(r"no ONNX file in .*empty", sources=[tmp_path / "empty"])
    refused(r"no model of the recipe fp8[\s\S]*fp16, int8", recipes=["fp8"])


def test_two_files_of_one_name_are_refused(refused, models, tmp_path):
    shutil.copytree(models, tmp_path / "again")
    refused("have the same name", sources=[models, tmp_path / "again"])


def test_a_missing_library_says_how_to_go_on(refused, tmp_path):
    fake_library(tmp_path, "x86_64")
    refused(
        r"There is no .*aarch64\.so[\s\S]*there: .*x86_64\.so[\s\S]*plugin build --arch aarch64.*--without-libraries",
        libraries=tmp_path,
    )
    fake_library(tmp_path, "aarch64")
    manifest_path(tmp_path / library_name("aarch64")).unlink()
    refused(r"There is no .*aarch64\.so\.json", libraries=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "2" * 64}, r"is not the library that .*aarch64\.so\.json describes"),
        ({"architecture": "x86_64"}, "is not the library that"),
        ({"ops": ["Retention", "Newer"]}, "differ in ops[\\s\\S]*different versions"),
        ({"plugin_version": "2"}, "differ in plugin_version"),
    ],
)
def test_a_library_of_another_build_is_refused(refused, tmp_path, changes, message):
    fake_library(tmp_path, "x86_64")
    fake_library(tmp_path, "aarch64", **changes)
    refused(message, libraries=tmp_path)


def test_a_library_with_a_senseless_record_is_refused(refused, tmp_path):
    for architecture in ARCHITECTURES:
        manifest_path(fake_library(tmp_path, architecture)).write_text("{}")
    refused("does not describe a plugin library: KeyError", libraries=tmp_path)


def test_an_output_of_another_name_is_refused(refused, tmp_path):
    refused(r"a bundle's name ends in \.rmtedge", output=tmp_path / "bundle.zip")


def test_what_does_not_fit_into_a_bundle_is_refused_early(refused, monkeypatch):
    monkeypatch.setattr("rmt_edge.bundle.pack.MAX_BYTES", 1_000_000)
    monkeypatch.setattr("rmt_edge.bundle.pack.write_subset", None)
    refused(r"would have [\d,]+ bytes, 230,400 of them images[\s\S]*it can have 1,000,000[\s\S]*--recipes")


def test_a_full_disk_leaves_nothing(refused):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))  # above the subset, below the bundle
    try:
        refused(r"nano\.rmtedge cannot be written: File too large")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # below the subset's images
        refused(r"nano\.rmtedge cannot be written: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_changed_byte_of_a_real_bundle_is_refused(packed):
    """A sample of it; tests/bundle/test_bundle.py changes every byte of a small one."""
    content = packed.read_bytes()
    for at in [*range(0, len(content), len(content) // 50), *range(len(content) - 30, len(content))]:
        with packed.open("r+b") as file:
            file.seek(at)
            file.write(bytes((content[at] ^ 1,)))
        with pytest.raises(RmtEdgeError, match="is no bundle, or not a whole one"):
            open_bundle(packed)
        with packed.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
    open_bundle(packed)
