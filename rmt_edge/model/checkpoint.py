"""Checkpoints: public .pth files, plain state dicts and .safetensors, loaded strictly and without running their code.

Public layout (https://github.com/qhfan/RMT): of classifiers a dict with `model`, perhaps `model_ema`, an optimizer and
an argparse.Namespace; of detectors and segmenters mmcv 1.x's, a dict of `meta`, `state_dict` and `optimizer`. Names may
carry what wraps a model in training: DistributedDataParallel's `module.`, torch.compile's `_orig_mod.`, Lightning's
`model.`. What the model is follows from names and shapes (model/fit.py). .safetensors may carry in their metadata, as
JSON, its "preprocessing" and its "classes", a list of names; without the first, the public evaluation's (ImageNet,
224x224) is assumed. mmcv's `meta` has the names as CLASSES.
"""

import argparse
import json
import logging
import pathlib
import pickle
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rmt_edge.artifact import SOURCE, identity_of
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.fit import is_public, model_fitting
from rmt_edge.model.rmt import RMT

# Where a state dict lies in the files that people have; the first one present is taken.
CONTAINERS = ("model", "model_ema", "state_dict")
WRAPPERS = ("module.", "_orig_mod.", "model.")
# What public checkpoints hold beside tensors: data, no code.
_HARMLESS = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    np.float64(0).__reduce__()[0],  # numpy's unpickler of scalars, whatever this version calls its module
    *(type(np.dtype(x)) for x in (np.float32, np.float64, np.int64, np.uint8)),
    np.ndarray,  # mmseg's meta may hold its palette as an array
    np.zeros(0).__reduce__()[0],
]
# What PyTorch's restricted unpickler says of a pickle that calls or builds what is not allowed.
_ASKS_FOR_CODE = re.compile(r"GLOBAL|unrecognized function|Can only (build|create)|[Uu]nsupported class")
_FROM_MMENGINE = (
    "mmengine (mmdet 3.x, mmseg 1.x) saves objects of its own beside the weights. If you trust its author, load it "
    "where it was made and save its state_dict with safetensors."
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that is read and hashed at most once, each when it is first asked for.

    weights: see load_checkpoint.
    """

    path: Path
    weights: str | None = None

    @cached_property
    def model(self) -> RMT | Downstream:
        """The trained model, in evaluation mode and float32. Steps leave it as it is."""
        return load_checkpoint(self.path, self.weights)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Its name and the sha256 of the file."""
        if not self.path.is_file():
            raise RmtEdgeError(f"There is no checkpoint at {self.path}.")
        return identity_of(self.path)

    def as_parent(self, role: str = SOURCE) -> dict[str, str]:
        """The checkpoint as the parent of a file."""
        return {"role": role} | self.identity


def open_checkpoint(source: Path | str | Checkpoint, weights: str | None = None) -> Checkpoint:
    """The checkpoint at a path, not yet read; what is one already stays it."""
    return source if isinstance(source, Checkpoint) else Checkpoint(Path(source), weights)


def load_checkpoint(path: str | Path, weights: str | None = None) -> RMT | Downstream:
    """The trained model in a file, in evaluation mode and float32.

    weights: `model` or `model_ema` in a file that holds both; the first of CONTAINERS that is there if None. Its
    `head_name`, `variant_name` and `num_classes` follow from names and shapes; `preprocessing` is what it was trained
    with; `class_names` what the file calls its classes; `weights_taken` the container that the weights lay in, None in
    a file that is one state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise RmtEdgeError(f"There is no checkpoint at {path}.")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        taken = _container([], path, weights)
        names = json.loads(metadata.get("classes", "null"))
    else:
        content = _read_pickle(path)
        state, taken = _state_dict_in(content, path, weights)
        names = _class_names_in(content)
    state = _unwrapped(state, path)
    model = model_fitting({name: tuple(value.shape) for name, value in state.items()}, path)
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise RmtEdgeError(f"{path}: {name} holds NaN or infinite values.", do="Use another checkpoint.")
    model.load_state_dict(state, strict=True)
    model.weights_taken = taken
    model.class_names = _checked_class_names(names, model.num_classes, path)
    if "preprocessing" in metadata:
        model.preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    return model.eval()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise RmtEdgeError(f"{path} is not a whole .safetensors file: {error}.") from error


def _read_pickle(path: Path) -> object:
    """A torch.save file, by PyTorch's restricted unpickler: it makes tensors and plain data, and calls nothing."""
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's advice comes before this; it names globals whatever the fault is.
        message = str(error).rpartition("WeightsUnpickler error:")[2].strip()
        if _ASKS_FOR_CODE.search(message):
            reason = message.splitlines()[0]
            raise RmtEdgeError(
                f"{path} asks to run code while it is loaded; refused. ({reason[:200]})",
                "a checkpoint holds tensors, numbers, strings and an argparse.Namespace, and needs no code.",
                _FROM_MMENGINE
                if "mmengine" in reason
                else "If you trust its author, load it where it was made and save model.state_dict() with safetensors.",
            ) from error
        raise _no_checkpoint(path, message) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _no_checkpoint(path, str(error)) from error


def _no_checkpoint(path: Path, reason: str) -> RmtEdgeError:
    first_line = reason.strip().splitlines()[0][:160] if reason.strip() else "it ends too early"
    return RmtEdgeError(
        f"{path} is not a checkpoint, or is cut short: {first_line}.",
        "rmt-edge reads files of torch.save (.pth, .pt) and .safetensors.",
        "Download or copy it again and compare its size.",
    )


def _state_dict_in(content: object, path: Path, weights: str | None) -> tuple[dict[str, Tensor], str | None]:
    """The state dict in what torch.load returned, itself or one of its entries, and that entry's name."""
    if not isinstance(content, dict):
        raise RmtEdgeError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    taken = _container([x for x in CONTAINERS if isinstance(content.get(x), dict)], path, weights)
    state = content if taken is None else content[taken]
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise RmtEdgeError(
            f"{path} holds no weights{'' if taken is None else f' in its {taken}'}.",
            f"looked at the top and under {', '.join(CONTAINERS)}; found {', '.join(map(str, content))[:200]}.",
        )
    return tensors, taken


def _container(found: list[str], path: Path, weights: str | None) -> str | None:
    """Which of the containers found in a file to take; None: the file is one state dict. It is said where another
    could have been meant."""
    if weights is not None and weights not in found:
        raise RmtEdgeError(
            f"{path} has no weights {weights!r}.",
            f"it has: {', '.join(found) or 'one state dict, without a name'}.",
            "Take one of these with --weights." if found else "Leave --weights out.",
        )
    if not found:
        return None
    taken = weights or found[0]
    if others := [x for x in found if x != taken]:
        also = " and ".join(f"{x} (--weights {x})" for x in others)
        logger.info("%s: took the weights of its %s; it also holds %s", path.name, taken, also)
    return taken


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict under the public names: without WRAPPERS, alone or stacked, but never in a name that is public."""
    plain: dict[str, Tensor] = {}
    wrapped: dict[str, str] = {}
    for name, value in state.items():
        short = name
        while not is_public(short) and (wrapper := next((x for x in WRAPPERS if short.startswith(x)), None)):
            short = short.removeprefix(wrapper)
        if not is_public(short):
            short = short.replace("._orig_mod.", ".")  # of a part that was compiled by itself
        if short in plain:
            raise RmtEdgeError(
                f"{path} holds {short} twice: as {wrapped[short]} and as {name}.",
                "several models lie in one state dict, and rmt-edge does not guess which is meant.",
                "Save the one that you want: torch.save(model.state_dict(), PATH).",
            )
        plain[short], wrapped[short] = value, name
    return plain


def _class_names_in(content: object) -> object:
    """What mmcv's meta calls the classes."""
    meta = content.get("meta") if isinstance(content, dict) else None
    return meta.get("CLASSES") if isinstance(meta, dict) else None


def _checked_class_names(names: object, classes: int, path: Path) -> tuple[str, ...] | None:
    """The class names of a file, if they are plain strings and as many as there are classes."""
    if names is None:
        return None
    if isinstance(names, list | tuple) and len(names) == classes and all(isinstance(x, str) for x in names):
        return tuple(names)
    logger.info("%s: its class names are not %d plain strings and are left out", path.name, classes)
    return None
