"""Run an ONNX file on the CPU through ONNX Runtime: (b, 3, h, w) float32 images in, outputs by name out."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rmt_edge.artifact import ONNX, Artifact, read_artifact
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime.runner import Timing, check_batch, check_images, noise_images
from rmt_edge.tasks.task import Outputs

MAX_BATCH = 1 << 16  # ONNX Runtime has no limit of its own; memory ends long before

# It moves layout changes through Q/DQ. With INT8 residual additions that is not the same function any more (ONNX
# Runtime 1.32: logits of an untrained rmt_nano in FP16 off by 11 %); in the other recipes no logit changes without it.
DISABLED_OPTIMIZERS = ["TransposeOptimizer"]


def open_onnx(file: Path | Artifact) -> "OnnxRunner":
    """The runner of an ONNX file of `export`, after the file was held to its manifest; for a context manager."""
    opened = read_artifact(file, ONNX)
    runner = OnnxRunner(opened.path, opened.recipe["precision"])
    runner.preprocessing = Preprocessing.from_dict(opened.details["preprocessing"])
    return runner


class OnnxRunner:
    """An ONNX file on the CPU, a runner (runner.py). precision: of the file, for records.

    content: what a file at the path would hold, where it is not written. as_written: run each node as it stands,
    without ONNX Runtime's graph optimisations. preprocessing: what its images go through, where the file was opened by
    open_onnx.
    """

    preprocessing: Preprocessing | None = None

    name = "onnxruntime"
    clock = "host clock"
    transfers: tuple[bool, ...] = (False,)  # the images are where the CPU computes
    cuda_graphs: tuple[bool, ...] = (False,)

    def __init__(self, path: Path, precision: str = "", content: bytes | None = None, as_written: bool = False):
        self.path, self.precision = path, precision
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of FP16 constants that its CPU kernels cannot fold; nothing is wrong
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = onnxruntime.InferenceSession(
                content or path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
            )
        except Exception as error:  # onnxruntime raises its own types, which share no base but Exception
            raise RmtEdgeError(f"ONNX Runtime does not take {path}: {error}") from error
        image = self.session.get_inputs()[0]
        self.input, self.outputs = image.name, [x.name for x in self.session.get_outputs()]
        batch, channels, height, width = image.shape
        self.batches = range(batch, batch + 1) if isinstance(batch, int) else range(1, MAX_BATCH + 1)
        self.image_shape = (channels, height, width)
        self._images: np.ndarray | None = None

    def __enter__(self) -> "OnnxRunner":
        return self

    def __exit__(self, *_: Any) -> None:
        self._images = None

    def __call__(self, images: np.ndarray) -> Outputs:
        """(b, 3, h, w) float32 -> {"logits": (b, classes)} float32, or what else the model gives."""
        check_images(images, self.image_shape, self.batches, self.path.name)
        return dict(zip(self.outputs, self.session.run(None, {self.input: images}), strict=True))

    def prepare(self, batch: int, transfers: bool = False, cuda_graph: bool = False) -> None:
        """Images of noise for `run`. transfers, cuda_graph: a CPU has neither."""
        assert not transfers and not cuda_graph, (transfers, cuda_graph)
        check_batch(batch, self.batches, self.path.name)
        self._images = noise_images(batch, self.image_shape)

    def run(self) -> Timing:
        """One inference of what was prepared."""
        start = time.perf_counter()
        self.session.run(None, {self.input: self._images})
        return Timing((time.perf_counter() - start) * 1e3, None)
