"""Export: the calibrated folded form to one ONNX file that has been checked against PyTorch.

The file is written by graph/network.py. Before it gets its name: onnx.checker, one Retention node per block, and ONNX
Runtime's logits against PyTorch's, with the same weights, inputs and operands of additions rounded.
"""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from safetensors.torch import load_file

from rmt_edge.artifact import (
    ONNX,
    PLUGIN_ONNX,
    QUANTIZED,
    Artifact,
    output_folder,
    plugin_form_path,
    read_artifact,
    write_manifest,
    written_whole,
)
from rmt_edge.graph.network import onnx_from_folded
from rmt_edge.graph.plugin_form import plugin_form, plugin_nodes
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention.onnx_function import DOMAIN, OP_TYPE
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers
from rmt_edge.quantization.recipe import PRECISIONS
from rmt_edge.runtime.onnx_runner import OnnxRunner

CHECK_IMAGES = 2
# Largest relative error |onnx - torch|/|torch| of the logits on noise. float32: rounding alone; FP16: 11 bits through
# up to 45 blocks; INT8: as FP16, and a value near the middle of two INT8 steps may fall to either side.
MAX_RELATIVE_ERROR = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
logger = logging.getLogger(__name__)


def export(quantized: Path | Artifact, output: Path | None = None) -> Artifact:
    """Write the ONNX file of a quantised checkpoint beside it, or into `output`."""
    start = time.monotonic()
    source = read_artifact(quantized, QUANTIZED)
    folder = output_folder(output or source.path.parent)
    model, ranges = folded_from_file(source)
    precision = source.recipe["precision"]
    assert precision in PRECISIONS, precision
    metadata = {
        "variant": model.variant_name,
        "precision": precision,
        "preprocessing": json.dumps(source.details["preprocessing"]),
    }
    dtype = np.dtype(np.float32 if precision == "fp32" else np.float16)
    onnx_model = onnx_from_folded(model, dtype, ranges, metadata)
    path = folder / f"{source.path.stem}.onnx"
    with written_whole(path) as temporary:
        onnx.save(onnx_model, temporary)
        error = check_against_torch(temporary, model, ranges, dtype, MAX_RELATIVE_ERROR[precision])
        details = source.details | check_graph(temporary, model.variant_name) | {"relative_error": error}
        seconds = time.monotonic() - start
        parents = [source.as_parent()]
        onnx_file = write_manifest(
            temporary, path, kind=ONNX, parents=parents, recipe=source.recipe, details=details, seconds=seconds
        )
    flat = onnx_from_folded(model, dtype, ranges, metadata, flat_linears=True)
    form = write_plugin_form(onnx_file, flat)
    logger.info("export: %s, %d nodes, in %.1f s", path.name, details["nodes"], seconds)
    return replace(onnx_file, siblings=(form,))


def write_plugin_form(onnx_file: Artifact, model: ModelProto) -> Artifact:
    """Write the plugin form of an exported model beside it: what `build --kernels plugin` reads.

    model: the exported model with flat Linear layers (see graph.onnx_from_folded).
    """
    start = time.monotonic()
    path = plugin_form_path(onnx_file.path)
    made = plugin_form(model)
    counts = {"nodes": len(made.graph.node), "plugin_nodes": plugin_nodes(made)}
    with written_whole(path) as temporary:
        onnx.save(made, temporary)
        return write_manifest(
            temporary,
            path,
            kind=PLUGIN_ONNX,
            parents=[onnx_file.as_parent()],
            recipe=onnx_file.recipe,
            details=onnx_file.details | counts,
            seconds=time.monotonic() - start,
        )


def folded_from_file(quantized: Artifact) -> tuple[FoldedRMT, Ranges]:
    """The folded form and the INT8 ranges in a quantised checkpoint."""
    state = load_file(quantized.path)
    ranges = {name: state.pop(name) for name in list(state) if name.endswith("_amax")}
    preprocessing = quantized.details["preprocessing"]
    model = FoldedRMT(
        quantized.details["variant"], quantized.details["num_classes"], preprocessing["height"], preprocessing["width"]
    )
    model.load_state_dict(state, strict=True)
    return model.eval(), ranges


def check_graph(path: Path, variant_name: str) -> dict[str, int]:
    """Run onnx.checker with shape inference; count nodes, of which one per block is a Retention."""
    onnx.checker.check_model(path, full_check=True)
    nodes = onnx.load(path, load_external_data=False).graph.node
    retentions = sum(node.op_type == OP_TYPE and node.domain == DOMAIN for node in nodes)
    blocks = sum(VARIANTS[variant_name].depths)
    assert retentions == blocks, (retentions, blocks)
    return {"nodes": len(nodes), "retention_nodes": retentions}


def check_against_torch(path: Path, model: FoldedRMT, ranges: Ranges, dtype: np.dtype, limit: float) -> float:
    """The relative error of ONNX Runtime's logits against PyTorch's in float32, on noise.

    limit: of that error; or the error that the INT8 rounding itself makes, if that is larger: through enough rounded
    tensors FP16 falls to another side so often that the two errors have no more to do with each other.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal((CHECK_IMAGES, 3, model.height, model.width), dtype=np.float32)
    actual = OnnxRunner(path)(images)
    with torch.no_grad(), FakeQuantizedLayers(model, ranges, dtype) as layers:
        unrounded = model(torch.from_numpy(images)).numpy()
        layers.switch_to(layers.modules)
        expected = model(torch.from_numpy(images)).numpy()
    error = relative_error(actual, expected)
    limit = max(limit, 1.5 * relative_error(expected, unrounded))  # two unrelated errors of one size: √2
    # Not a user's fault: the graph and the model say different things.
    assert error <= limit, f"{path.name}: ONNX Runtime is {error:.2e} away from PyTorch, more than {limit:.0e}"
    return error
