"""Run a model file: (b, 3, h, w) float32 images in, (b, classes) float32 logits out."""

import os
from pathlib import Path

import numpy as np
import onnxruntime

from rmt_edge.errors import RmtEdgeError

# It moves layout changes through Q/DQ. With INT8 residual additions that is not the same function any more (ONNX
# Runtime 1.32: logits of an untrained rmt_nano in FP16 off by 11 %); in the other recipes no logit changes without it.
DISABLED_OPTIMIZERS = ["TransposeOptimizer"]


class OnnxRunner:
    """An ONNX file on the CPU, through ONNX Runtime."""

    def __init__(self, path: Path):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of FP16 constants that its CPU kernels cannot fold; nothing is wrong
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
            )
        except Exception as error:  # onnxruntime raises its own types, which share no base but Exception
            raise RmtEdgeError(f"ONNX Runtime does not take {path}: {error}") from error
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(b, 3, h, w) float32 -> (b, classes) float32."""
        return self.session.run(None, {self.input: images})[0]
