"""Settings as files: quantisation recipes (calib/*.toml) and device profiles (engines/*.toml).

Frozen dataclasses that check themselves; every default is written here and nowhere else. A recipe or profile is named
by its path or, for those in this repository, by its file name without .toml.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rmt_edge.errors import RmtEdgeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("fp32", "fp16", "int8")
# The Linear layers of the deployment form, by the last part of their names.
LINEAR_LAYERS = ("qkv", "out_proj", "fc1", "fc2", "proj", "head", "aux_head")
BACKENDS = ("tensorrt_rtx", "tensorrt")

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class QuantizationRecipe:
    """How a checkpoint is quantised. What `layers` does not name stays in FP16.

    precision: of the whole; `int8` means INT8 for `layers` and FP16 for the rest. layers: Linear layers with INT8
    weights (symmetric, one scale per output channel or per tensor) and INT8 input (symmetric, one scale per tensor).
    method: how a range follows from the images; max is the largest magnitude seen. images, batch: of calibration.
    """

    name: str
    precision: str
    layers: tuple[str, ...] = ("qkv", "out_proj", "fc1", "fc2", "proj")
    weights: str = "per_channel"
    method: str = "max"
    images: int = 512
    batch: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("weights", self.weights, ("per_channel", "per_tensor"))
        _check_choice("method", self.method, ("max",))
        for layer in self.layers:
            _check_choice("layers", layer, LINEAR_LAYERS)
        if self.precision == "int8" and not self.layers:
            raise RmtEdgeError("layers is empty.", f"INT8 needs at least one of {', '.join(LINEAR_LAYERS)}.")
        _check_positive(images=self.images, batch=self.batch)

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it; what an unquantised model does not use is left out."""
        return asdict(self) if self.precision == "int8" else {"name": self.name, "precision": self.precision}


@dataclass(frozen=True)
class DeviceProfile:
    """What an engine is built for.

    compute_capability: of the GPU, "8.6"; "current" for the GPU of this machine. min_batch, opt_batch, max_batch: the
    optimisation profile.
    """

    name: str
    device: str
    backend: str
    compute_capability: str
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 32

    def __post_init__(self) -> None:
        _check_choice("backend", self.backend, BACKENDS)
        parts = self.compute_capability.split(".")
        if self.compute_capability != "current" and not (len(parts) == 2 and all(x.isdigit() for x in parts)):
            raise RmtEdgeError(f"compute_capability is {self.compute_capability!r}.", 'it is like "8.6", or "current".')
        _check_positive(min_batch=self.min_batch, opt_batch=self.opt_batch, max_batch=self.max_batch)
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise RmtEdgeError(
                f"The batches are {self.min_batch}, {self.opt_batch}, {self.max_batch}.", "min ≤ opt ≤ max must hold."
            )

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return asdict(self)


def load_recipe(name: str | Path) -> QuantizationRecipe:
    """A quantisation recipe by name or path."""
    return _load(name, "calib", QuantizationRecipe, "recipe")


def load_profile(name: str | Path) -> DeviceProfile:
    """A device profile by name or path."""
    return _load(name, "engines", DeviceProfile, "device profile")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RmtEdgeError(f"{path} is not readable as TOML: {error}.") from error


def _load(name: str | Path, folder: str, cls: type[Settings], what: str) -> Settings:
    path = Path(name)
    if path.suffix != ".toml":
        path = ROOT / folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(x.stem for x in (ROOT / folder).glob("*.toml")))
        raise RmtEdgeError(f"There is no {what} {name}.", f"known: {known}; or a path that ends in .toml.")
    values = read_toml(path)
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := set(values) - set(fields):
        raise RmtEdgeError(f"{path}: unknown {', '.join(sorted(unknown))}.", f"known: {', '.join(fields)}.")
    try:
        return cls(**{"name": path.stem} | values)
    except TypeError as error:
        raise RmtEdgeError(f"{path}: {error}.") from error
    except RmtEdgeError as error:
        raise RmtEdgeError(f"{path}: {error}") from error


def _check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RmtEdgeError(f"{field} is {value!r}.", f"allowed: {', '.join(allowed)}.")


def _check_positive(**values: int) -> None:
    for field, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise RmtEdgeError(f"{field} is {value!r}.", "it is a whole number of at least 1.")
