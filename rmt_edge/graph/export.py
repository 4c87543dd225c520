"""Export: the calibrated folded form to an ONNX file and its plugin form, both checked against PyTorch.

The graph is written by graph/network.py, the plugin form made by graph/plugin_form.py. Before either file gets its
name, onnx.checker and the counts of nodes must agree with the model, and ONNX Runtime's logits with PyTorch's, with the
same weights, inputs and operands of additions rounded. ONNX Runtime has no plugins: it runs the plugin form, as read
back from the written file, with bodies and quantisers put back.
"""

import json
import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
import torch
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
from rmt_edge.graph.plugin_form import PLUGIN_ATTRIBUTES, attributes_of, check_plugin_form, executable, plugin_form
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention.onnx_function import DOMAIN, OP_TYPES
from rmt_edge.quantization.fake_quant import FakeQuantizedLayers
from rmt_edge.quantization.recipe import PRECISIONS
from rmt_edge.runtime.onnx_runner import OnnxRunner

CHECK_IMAGES = 2
# Largest relative error |onnx - torch|/|torch| of the logits on noise. float32: rounding alone; FP16: 11 bits through
# up to 45 blocks; INT8: as FP16, and a value near the middle of two INT8 steps may fall to either side.
MAX_RELATIVE_ERROR = {"fp32": 1e-4, "fp16": 2e-2, "int8": 1e-1}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """PyTorch's logits (b, classes) of noise images (b, 3, h, w), and the relative error that a file may have."""

    model: FoldedRMT
    images: np.ndarray
    logits: np.ndarray
    limit: float

    @cached_property
    def rounding_error(self) -> float:
        """The relative error that the INT8 rounding itself makes; PyTorch runs for it, so only where it is needed."""
        return relative_error(self.logits, logits_of(self.model, self.images))


def export(quantized: Path | Artifact, output: Path | None = None) -> Artifact:
    """Write the ONNX file of a quantised checkpoint, and its plugin form, beside it or into `output`.

    Returns the ONNX file. The plugin form, which `build` reads for plugins, is its sibling.
    """
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
    path = folder / f"{source.path.stem}.onnx"
    form_path = plugin_form_path(path)
    with written_whole(path) as temporary, written_whole(form_path) as temporary_form:
        onnx.save(onnx_from_folded(model, dtype, ranges, metadata), temporary)
        onnx.save(plugin_form(onnx_from_folded(model, dtype, ranges, metadata, flat_linears=True)), temporary_form)
        counts = check_graph(temporary, model.variant_name)
        form_counts = check_plugin_form(onnx.load(temporary_form), onnx.load(temporary))
        expected = expected_logits(model, ranges, dtype, MAX_RELATIVE_ERROR[precision])
        details = source.details | {
            "relative_error": check_against_torch(OnnxRunner(temporary), expected),
            "plugin_form_relative_error": check_plugin_form_against_torch(temporary_form, expected),
        }
        write = partial(write_manifest, recipe=source.recipe, seconds=time.monotonic() - start)
        onnx_file = write(temporary, path, kind=ONNX, parents=[source.as_parent()], details=details | counts)
        form = write(
            temporary_form,
            form_path,
            kind=PLUGIN_ONNX,
            parents=[onnx_file.as_parent()],
            details=details | counts | form_counts,
        )
    logger.info("export: %s, %d nodes, in %.1f s", path.name, counts["nodes"], time.monotonic() - start)
    return replace(onnx_file, siblings=(form,))


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
    retentions = sum(node.op_type in OP_TYPES and node.domain == DOMAIN for node in nodes)
    blocks = sum(VARIANTS[variant_name].depths)
    assert retentions == blocks, (retentions, blocks)
    named = [node.name for node in nodes if not PLUGIN_ATTRIBUTES.keys().isdisjoint(attributes_of(node))]
    assert not named, f"TensorRT would look for a plugin and not at the body of {named}"
    return {"nodes": len(nodes), "retention_nodes": retentions}


def expected_logits(model: FoldedRMT, ranges: Ranges, dtype: np.dtype, limit: float) -> Expected:
    """What PyTorch computes in float32 of noise, with the layers in `ranges` rounded to INT8."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((CHECK_IMAGES, 3, model.height, model.width), dtype=np.float32)
    with FakeQuantizedLayers(model, ranges, dtype) as layers:
        layers.switch_to(layers.modules)
        return Expected(model, images, logits_of(model, images), limit)


@torch.no_grad()
def logits_of(model: FoldedRMT, images: np.ndarray) -> np.ndarray:
    """PyTorch's logits. (b, 3, h, w) -> (b, classes)."""
    return model(torch.from_numpy(images)).numpy()


def check_against_torch(runner: OnnxRunner, expected: Expected) -> float:
    """The relative error of ONNX Runtime's logits against PyTorch's.

    A larger error than the limit is none where the INT8 rounding itself makes a larger one: through enough rounded
    tensors FP16 falls to another side so often that the two errors have no more to do with each other.
    """
    error, limit = relative_error(runner(expected.images)["logits"], expected.logits), expected.limit
    if error > limit:
        limit = max(limit, 1.5 * expected.rounding_error)  # two unrelated errors of one size: √2
    # Not a user's fault: the graph and the model say different things.
    assert error <= limit, f"{runner.path.name}: ONNX Runtime is {error:.2e} away from PyTorch, more than {limit:.0e}"
    return error


def check_plugin_form_against_torch(path: Path, expected: Expected) -> float:
    """The relative error of what the plugin form in that file computes against PyTorch's logits."""
    content = executable(onnx.load(path)).SerializeToString()
    return check_against_torch(OnnxRunner(path, content=content, as_written=True), expected)
