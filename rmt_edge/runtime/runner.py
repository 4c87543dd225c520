"""What every runner of a model has: one interface for engine_runner.py, onnx_runner.py and torch_runner.py.

A runner is a context manager. `runner(images)` is one inference: images in, a dict of arrays out, the
model's outputs by their names, {"logits": (b, classes)} of a classifier. For timing, `prepare` gets
everything of one batch size ready, images of noise included, and each `run` is one inference that times itself.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.task import Outputs


class Timing(NamedTuple):
    """One inference. latency_ms: from its start to its end by the runner's clock; enqueue_ms: the host's part, the time
    until all work was handed to the GPU, None on a CPU."""

    latency_ms: float
    enqueue_ms: float | None


class Runner(Protocol):
    """name, precision: as records say them. clock: what times `run`. batches: the sizes it takes.

    transfers, cuda_graphs: the settings that it can be measured with, of False (without) and True (with).
    """

    name: str
    precision: str
    clock: str
    batches: range
    image_shape: tuple[int, int, int]
    transfers: tuple[bool, ...]
    cuda_graphs: tuple[bool, ...]

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> None: ...

    def __call__(self, images: np.ndarray) -> Outputs: ...

    def prepare(self, batch: int, transfers: bool = False, cuda_graph: bool = False) -> None: ...

    def run(self) -> Timing: ...


def check_images(images: np.ndarray, shape: tuple[int, int, int], batches: range, name: str) -> None:
    """Refuse what is not (b, 3, h, w) float32 with b in `batches`. shape: (3, h, w)."""
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise RmtEdgeError(f"Images are {kind}.", f"{name} takes a float32 array.")
    if images.ndim != 4 or images.shape[1:] != shape:
        raise RmtEdgeError(f"Images are {images.shape}.", f"{name} takes (b, {', '.join(str(x) for x in shape)}).")
    check_batch(len(images), batches, name)


def check_batch(batch: int, batches: range, name: str) -> None:
    """Refuse a batch size that the runner does not take."""
    if batch not in batches:
        raise RmtEdgeError(
            f"A batch of {batch}.",
            f"{name} takes {batches.start} to {batches.stop - 1} images at a time.",
            "An engine's range is its profile's min_batch and max_batch (engines/*.toml).",
        )


def noise_images(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """(b, 3, h, w) float32 of a normal distribution, always the same: zeros would take less power than an image."""
    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
