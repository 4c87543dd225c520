"""Every file that people bring, and every file that must be refused."""

import argparse
import logging
import pathlib
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model import checkpoint as checkpoint_module
from rmt_edge.model import fit
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.variants import VARIANTS
from tests.conftest import SMALL, filled


@pytest.fixture
def state(nano):
    return {name: value.clone() for name, value in nano.state_dict().items()}


def assert_same(model, state):
    assert not model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def save(content, tmp_path, name="x.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def test_the_public_layout_loads(state, tmp_path):
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [1e-3]},
        "epoch": 299,
        "scaler": {"scale": 65536.0},
        "max_accuracy": np.float64(84.1),
        "args": argparse.Namespace(model="RMT_S", lr=1e-3, output_dir=pathlib.PosixPath("/x")),
    }
    model = load_checkpoint(save(content, tmp_path))
    assert_same(model, state)
    assert (model.variant_name, model.num_classes) == ("rmt_nano", 10)
    assert model.preprocessing == Preprocessing()


def test_model_is_taken_before_model_ema_unless_asked(state, tmp_path):
    averaged = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    path = save({"model_ema": averaged, "model": state}, tmp_path)
    assert_same(load_checkpoint(path), state)
    assert_same(load_checkpoint(path, "model_ema"), averaged)
    assert load_checkpoint(path).weights_taken == "model"
    assert load_checkpoint(path, "model_ema").weights_taken == "model_ema"


def test_which_weights_were_taken_is_said_where_there_is_a_choice(state, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = save({"model_ema": state, "model": state}, tmp_path)
    load_checkpoint(path)
    load_checkpoint(path, "model_ema")
    assert caplog.messages == [
        "x.pth: took the weights of its model; it also holds model_ema (--weights model_ema)",
        "x.pth: took the weights of its model_ema; it also holds model (--weights model)",
    ]
    caplog.clear()
    assert load_checkpoint(save({"model_ema": state}, tmp_path)).weights_taken == "model_ema"
    assert load_checkpoint(save(state, tmp_path)).weights_taken is None
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("wrap", "has"),
    [
        (lambda state: {"model": state}, r"it has: model\.\n[^\n]*--weights"),
        (lambda state: {"model": state, "model_ema": None}, r"it has: model\."),
        (lambda state: {"model": state, "state_dict": state}, r"it has: model, state_dict\."),
        (lambda state: state, r"it has: one state dict, without a name\.\nLeave --weights out"),
    ],
)
def test_weights_that_are_not_there_are_refused_with_what_is(state, tmp_path, wrap, has):
    with pytest.raises(RmtEdgeError, match=rf"x\.pth has no weights 'model_ema'\.[\s\S]*{has}"):
        load_checkpoint(save(wrap(state), tmp_path), "model_ema")


def test_a_safetensors_file_has_no_weights_to_choose(checkpoint):
    with pytest.raises(RmtEdgeError, match=r"has no weights 'model'\.[\s\S]*Leave --weights out"):
        load_checkpoint(checkpoint, "model")


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model_ema": s}])
def test_plain_and_nested_state_dicts_load(state, tmp_path, wrap):
    assert_same(load_checkpoint(save(wrap(state), tmp_path)), state)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model._orig_mod.",
        "model.model.module.",
    ],
)
@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_what_wraps_a_model_in_training_is_dropped_from_its_names(state, tmp_path, prefix, container):
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    assert_same(load_checkpoint(save({container: wrapped} if container else wrapped, tmp_path)), state)


def test_parts_that_were_compiled_by_themselves_load(state, tmp_path):
    compiled = {re.sub(r"^(layers\.\d+\.blocks\.\d+)\.", r"\1._orig_mod.", name): x for name, x in state.items()}
    assert any("._orig_mod." in name for name in compiled)
    assert_same(load_checkpoint(save(compiled, tmp_path)), state)


def test_wrapped_safetensors_load(state, tmp_path):
    save_file({f"_orig_mod.{name}": value for name, value in state.items()}, tmp_path / "x.safetensors")
    assert_same(load_checkpoint(tmp_path / "x.safetensors"), state)


def test_a_public_name_that_looks_wrapped_is_left_alone(state, monkeypatch, tmp_path):
    public = fit._classifier_names() | {"model.gate"}
    monkeypatch.setattr(fit, "_classifier_names", lambda: public)
    gate = torch.zeros(3)
    plain = checkpoint_module._unwrapped({"module.model.gate": gate, "model.head.bias": gate}, tmp_path)
    assert set(plain) == {"model.gate", "head.bias"}


def test_two_models_in_one_state_dict_are_not_guessed_at(state, tmp_path):
    both = state | {f"model.{name}": value for name, value in state.items()}
    with pytest.raises(RmtEdgeError, match=r"holds patch_embed\.\S+ twice: as patch_embed\.\S+ and as model\.patch"):
        load_checkpoint(save(both, tmp_path))


def test_what_else_lightning_trains_is_named_and_not_passed_over(state, tmp_path):
    content = {"state_dict": {f"model.{name}": x for name, x in state.items()} | {"criterion.weight": torch.ones(10)}}
    with pytest.raises(RmtEdgeError, match=r"not part of it: criterion\.weight"):
        load_checkpoint(save(content, tmp_path))


def test_half_precision_weights_load_as_float32(state, tmp_path):
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    model = load_checkpoint(save(halves, tmp_path))
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, halves["head.weight"].float())


def test_safetensors_bring_their_preprocessing(checkpoint, state):
    model = load_checkpoint(checkpoint)
    assert_same(model, state)
    assert model.preprocessing == SMALL


def test_safetensors_without_metadata_load(state, tmp_path):
    save_file(state, tmp_path / "x.safetensors")
    assert load_checkpoint(tmp_path / "x.safetensors").preprocessing == Preprocessing()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_and_class_count_follow_from_the_shapes(name, tmp_path):
    path = save(filled(name, 13).state_dict(), tmp_path)
    model = load_checkpoint(path)
    assert (model.variant_name, model.num_classes) == (name, 13)


class Malicious:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("pwned"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run_it(state, tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"model": state, "args": Malicious()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(RmtEdgeError, match=r"asks to run code while it is loaded; refused"):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_a_bare_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(RmtEdgeError, match=r"asks to run code|not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"no checkpoint at .*nowhere\.pth"):
        load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am a text file\n", b"# A heading\n", b"<html>", b"{}", b"PK\x03\x04 but no zip", bytes(1000)],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RmtEdgeError, match=r"is not a (checkpoint|whole \.safetensors file)"):
        load_checkpoint(path)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_checkpoint_is_refused(state, tmp_path, suffix, fraction):
    path = tmp_path / f"x{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(RmtEdgeError, match=r"cut short|not a whole"):
        load_checkpoint(path)


def test_a_vit_is_refused_with_both_sets_of_names(tmp_path):
    vit = {
        "cls_token": torch.zeros(1, 1, 192),
        "pos_embed": torch.zeros(1, 197, 192),
        "patch_embed.proj.weight": torch.zeros(192, 3, 16, 16),
        **{f"blocks.{i}.attn.qkv.weight": torch.zeros(576, 192) for i in range(12)},
        "head.weight": torch.zeros(1000, 192),
    }
    with pytest.raises(RmtEdgeError, match=r"not an RMT[\s\S]*cls_token[\s\S]*patch_embed\.proj\.0"):
        load_checkpoint(save(vit, tmp_path))


def test_missing_extra_and_misshapen_parameters_are_named(state, tmp_path):
    del state["layers.1.blocks.0.ffn.fc1.bias"]
    state["layers.9.surprise"] = torch.zeros(3)
    state["norm.weight"] = torch.zeros(5)
    with pytest.raises(RmtEdgeError) as error:
        load_checkpoint(save(state, tmp_path))
    message = str(error.value)
    assert "does not fit rmt_nano" in message
    assert "missing: layers.1.blocks.0.ffn.fc1.bias" in message
    assert "not part of it: layers.9.surprise" in message
    assert re.search(r"norm\.weight \(5,\) instead of \(256,\)", message)


def test_a_backbone_without_classifier_says_so(state, tmp_path):
    backbone = {name: value for name, value in state.items() if not name.startswith(("proj", "norm", "head"))}
    with pytest.raises(RmtEdgeError, match=r"missing: proj\.weight[\s\S]*is no classifier"):
        load_checkpoint(save(backbone, tmp_path))


def test_heads_that_disagree_are_refused(tmp_path):
    state = filled("rmt_s_token_label", 10).state_dict()
    state["aux_head.weight"], state["aux_head.bias"] = torch.zeros(9, 512), torch.zeros(9)
    with pytest.raises(RmtEdgeError, match=r"disagree about the class count: \[9, 10\]"):
        load_checkpoint(save(state, tmp_path))


def test_a_nan_weight_is_named(state, tmp_path):
    state["head.bias"][3] = float("nan")
    with pytest.raises(RmtEdgeError, match=r"head\.bias holds NaN"):
        load_checkpoint(save(state, tmp_path))


@pytest.mark.parametrize(
    ("content", "match"),
    [([1, 2], "holds a list"), ({"epoch": 3}, "holds no weights"), ({"model": {"x": 1}}, "no weights in its model")],
)
def test_a_file_without_weights_says_what_it_holds(content, match, tmp_path):
    with pytest.raises(RmtEdgeError, match=match):
        load_checkpoint(save(content, tmp_path))
