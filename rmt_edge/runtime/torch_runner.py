"""PyTorch as a peer: the published model as people run it, eager or compiled, measured in the same turns as an engine.

On a GPU in float16 and float32; on a CPU in float32, since nobody deploys float16 there. Images and logits are float32
outside, as an engine's are. torch.compile is its default mode, or the slower max-autotune, which captures CUDA graphs
too; the first runs compile, and `prepare` waits for them.
"""

import copy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import open_checkpoint
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.rmt import RMT
from rmt_edge.runtime.runner import Timing, check_batch, check_images, noise_images
from rmt_edge.tasks.task import Outputs

PEERS = {"torch": "torch eager", "torch-compile": "torch.compile", "torch-max-autotune": "torch.compile max-autotune"}
MODES = {"torch-compile": "default", "torch-max-autotune": "max-autotune"}
MAX_BATCH = 1 << 16
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
COMPILE_RUNS = 3  # the first compiles, a later one may again


class TorchRunner:
    """A trained RMT in PyTorch, a runner (runner.py). peer: a key of PEERS; precision: of DTYPES."""

    transfers: tuple[bool, ...]
    cuda_graphs: tuple[bool, ...] = (False,)

    def __init__(
        self, model: RMT | Downstream, image_shape: tuple[int, int, int], peer: str, precision: str, device: str
    ):
        self.name, self.precision, self.device = PEERS[peer], precision, torch.device(device)
        self.clock = "CUDA events" if device == "cuda" else "host clock"
        self.transfers = (False, True) if device == "cuda" else (False,)
        self.batches, self.image_shape = range(1, MAX_BATCH + 1), image_shape
        self.dtype = DTYPES[precision]
        self._warm: set[int] = set()  # batch sizes that have been compiled
        self.model: Any = copy.deepcopy(model).to(self.device, self.dtype)  # `to` changes a model in place
        if peer in MODES:
            self.model = torch.compile(self.model, dynamic=False, mode=MODES[peer])

    def __enter__(self) -> "TorchRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        self._host = self._there = torch.empty(0)

    def __call__(self, images: np.ndarray) -> Outputs:
        """(b, 3, h, w) float32 -> {"logits": (b, classes)} float32, or what else the model gives."""
        check_images(images, self.image_shape, self.batches, self.name)
        return arrays_of(self._forward(torch.from_numpy(images).to(self.device)))

    def prepare(self, batch: int, transfers: bool = False, cuda_graph: bool = False) -> None:
        """Images of noise, pinned where there is a GPU, and the runs that compile."""
        assert not cuda_graph
        check_batch(batch, self.batches, self.name)
        images = torch.from_numpy(noise_images(batch, self.image_shape))
        self._host = images.pin_memory() if self.device.type == "cuda" else images
        self._there = self._host.to(self.device)
        self._moves = transfers
        if batch not in self._warm:
            self._warm.add(batch)
            for _ in range(COMPILE_RUNS):
                self._forward(self._there)

    def run(self) -> Timing:
        """One inference of what was prepared."""
        return self._run_on_gpu() if self.device.type == "cuda" else self._run_on_cpu()

    @torch.inference_mode()
    def _forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: x.float() if x.is_floating_point() else x for name, x in named(self.model(images.to(self.dtype)))}

    def _run_on_cpu(self) -> Timing:
        start = time.perf_counter()
        self._forward(self._there)
        return Timing((time.perf_counter() - start) * 1e3, None)

    def _run_on_gpu(self) -> Timing:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began = time.perf_counter()
        start.record()
        if self._moves:
            for output in self._forward(self._host.to(self.device, non_blocking=True)).values():
                output.to("cpu", non_blocking=True)
        else:
            self._forward(self._there)
        end.record()
        enqueue_ms = (time.perf_counter() - began) * 1e3
        end.synchronize()
        return Timing(start.elapsed_time(end), enqueue_ms)


def named(outputs: torch.Tensor | dict[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """A model's outputs by name: a single tensor is a classifier's logits."""
    return outputs.items() if isinstance(outputs, dict) else [("logits", outputs)]


def arrays_of(outputs: torch.Tensor | dict[str, torch.Tensor]) -> Outputs:
    """A model's outputs on the CPU."""
    return {name: x.cpu().numpy() for name, x in named(outputs)}


def peers_of(checkpoint: Path, sha256: str, names: list[str], image_shape: tuple[int, int, int]) -> list[TorchRunner]:
    """The runners of PyTorch for a checkpoint. sha256: of the checkpoint that the measured files were made from."""
    opened = open_checkpoint(checkpoint)
    from_file = opened.identity["sha256"]
    if from_file != sha256:
        raise RmtEdgeError(
            f"{checkpoint} ({from_file[:16]}…) is not the checkpoint that the files were made from ({sha256[:16]}…).",
            do="Pass that one with --checkpoint.",
        )
    model = opened.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = ("fp16", "fp32") if device == "cuda" else ("fp32",)
    return [TorchRunner(model, image_shape, name, precision, device) for name in names for precision in precisions]
