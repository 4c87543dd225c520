"""Build by Torch-TensorRT: a quantised checkpoint to a PyTorch module that holds one TensorRT engine.

The second road to an engine, for programs that live in PyTorch; build (engine/build.py) is the first. It compiles the
plugin form (engine/torch_module.py) and gives Torch-TensorRT converters for its ops, which add the same plugins as the
ONNX parser does. **Compiling has never been run**: it needs a CUDA build of PyTorch and a GPU. What is tested is the
module's numbers, its export, and the layers that the converters add. The converters' form and the options are those of
torch-tensorrt 2.13 and 2.14 (read in their sources).

To run what it writes: load the plugin library (plugin.load.load_plugins(tensorrt, library)), import torch_tensorrt;
then `torch.export.load(path).module()` takes images on the GPU.
"""

import importlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from rmt_edge.artifact import QUANTIZED, Artifact, identity_of, read_artifact, write_manifest
from rmt_edge.device.backend import load_backend
from rmt_edge.device.machine import this_machine
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.engine.build import gpu_of
from rmt_edge.engine.config import temporary_folder, timing_cache_path
from rmt_edge.engine.plugin_layers import (
    Constant,
    add_int8_linear,
    add_plugin_layer,
    depthwise_fields,
    dequantized,
    retention_fields,
)
from rmt_edge.engine.torch_module import PluginRMT
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import folded_from_file
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.ops.depthwise.onnx_function import op_type_of
from rmt_edge.ops.retention.onnx_function import OP_TYPE
from rmt_edge.plugin.load import LIBRARIES, load_plugins
from rmt_edge.plugin.trust import trusted_library
from rmt_edge.writing import output_folder, written_whole

TORCH_TENSORRT = "Torch-TensorRT module"  # the manifest's kind
logger = logging.getLogger(__name__)


def build_torch_tensorrt(
    quantized: Path | Artifact,
    profile: DeviceProfile,
    output: Path | None = None,
    libraries: Path | None = None,
    trust_libraries: bool = False,
) -> Artifact:
    """Write `<checkpoint>.<profile>.torch-tensorrt.pt2` beside the quantised checkpoint, or into `output`."""
    start = time.monotonic()
    source = read_artifact(quantized, QUANTIZED)
    model, ranges = folded_from_file(source)
    check_linear_alone(ranges, model)
    torch_tensorrt = load_torch_tensorrt()
    if profile.backend != "tensorrt":
        raise RmtEdgeError(
            f"The profile {profile.name} is built by {profile.backend}.",
            "Torch-TensorRT's plugin layers need TensorRT.",
            'Choose a profile with backend = "tensorrt", or build the ONNX file.',
        )
    if not isinstance(model, FoldedRMT):
        raise RmtEdgeError(f"{source.path.name} is a {model.head_name}.", "Torch-TensorRT compiles classifiers alone.")
    machine = this_machine()
    gpu = gpu_of(profile, machine)
    trt = load_backend("tensorrt")
    library = trusted_library(libraries or LIBRARIES, trust_libraries)
    load_plugins(trt, library)
    register_converters(torch_tensorrt, trt)
    dtype = torch.float32 if source.recipe["precision"] == "fp32" else torch.float16
    size = (3, model.height, model.width)
    path = output_folder(output or source.path.parent) / f"{source.path.stem}.{profile.name}.torch-tensorrt.pt2"
    module = PluginRMT(model, ranges, dtype).eval().cuda()
    cache = timing_cache_path(trt, profile, gpu)
    with temporary_folder(path) as scratch, written_whole(path) as temporary:
        made = scratch / path.name  # torch.export wants the suffix .pt2
        compile_module(torch_tensorrt, module, size, profile, cache, made)
        made.replace(temporary)
        details = source.details | {
            "backend": {"name": "torch_tensorrt", "version": torch_tensorrt.__version__},
            "tensorrt": trt.__version__,
            "profile": profile.to_dict(),
            "compute_capabilities": [gpu.compute_capability] if gpu else [],
            "plugin_library": identity_of(library),
            "machine": machine.to_dict(),
        }
        module_file = write_manifest(
            temporary,
            path,
            kind=TORCH_TENSORRT,
            parents=[source.as_parent()],
            recipe=source.recipe,
            details=details,
            seconds=time.monotonic() - start,
        )
    logger.info("build: %s in %.1f s", path.name, time.monotonic() - start)
    return module_file


def check_linear_alone(ranges: Ranges, model: nn.Module) -> None:
    """Refuse a recipe with INT8 beyond Linear layers and their inputs, for which this road has no layers."""
    others = [x for x in ranges if not isinstance(model.get_submodule(x.rpartition(".")[0]), nn.Linear)]
    if others:
        raise RmtEdgeError(
            f"{others[0].rpartition('.')[0]} is INT8, and is no Linear layer.",
            "by Torch-TensorRT only Linear layers run in INT8, and write FP16.",
            "Quantise with --recipe int8-linear, or build the ONNX file.",
        )


def load_torch_tensorrt() -> ModuleType:
    """torch_tensorrt, or an error that says what is here and what to install."""
    found = f"PyTorch here is {torch.__version__}"
    install = "pip install torch-tensorrt, of the version of a CUDA build of PyTorch, on the machine with the GPU."
    if torch.version.cuda is None:
        raise RmtEdgeError(
            f"{found}, a build without CUDA.", "Torch-TensorRT needs one with CUDA, and the GPU to build for.", install
        )
    try:
        return importlib.import_module("torch_tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        raise RmtEdgeError(f"torch_tensorrt cannot be imported: {error}.", f"{found}, with CUDA.", install) from error


def exported_module(
    module: nn.Module, size: tuple[int, int, int], profile: DeviceProfile, device: str
) -> torch.export.ExportedProgram:
    """The module as torch.export records it, for the profile's batches. size: (3, height, width)."""
    is_dynamic = profile.min_batch < profile.max_batch
    # An example of batch 1 would make the exporter take 1 for a constant.
    example = torch.zeros(max(profile.opt_batch, 2) if is_dynamic else profile.opt_batch, *size, device=device)
    batch = {0: torch.export.Dim("batch", min=profile.min_batch, max=profile.max_batch)} if is_dynamic else None
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=(batch,))


def compile_module(
    torch_tensorrt: Any,
    module: nn.Module,
    size: tuple[int, int, int],
    profile: DeviceProfile,
    timing_cache: Path | None,
    path: Path,
) -> None:
    """Compile the whole module into one engine, or fail, and write it. Never run (see the top of this file)."""
    if profile.hardware_compatibility == "same_compute_capability":
        raise RmtEdgeError(
            f"Torch-TensorRT has no hardware compatibility {profile.hardware_compatibility}.",
            f"the profile {profile.name} asks for it; there are none and ampere_plus.",
        )
    low, best, high = ((n, *size) for n in (profile.min_batch, profile.opt_batch, profile.max_batch))
    inputs = [torch_tensorrt.Input(min_shape=low, opt_shape=best, max_shape=high, dtype=torch.float32)]
    caching = {} if timing_cache is None else {"timing_cache_path": str(timing_cache.with_suffix(".torch.cache"))}
    compiled = torch_tensorrt.dynamo.compile(
        exported_module(module, size, profile, "cuda"),
        arg_inputs=inputs,
        require_full_compilation=True,
        min_block_size=1,
        workspace_size=profile.workspace_mib << 20,
        version_compatible=profile.version_compatible,
        hardware_compatible=profile.hardware_compatibility == "ampere_plus",
        immutable_weights=True,
        disable_tf32=True,
        **caching,
    )
    torch_tensorrt.save(compiled, str(path), output_format="exported_program", arg_inputs=inputs)


def register_converters(torch_tensorrt: Any, trt: ModuleType) -> None:
    """Tell Torch-TensorRT how each op of the plugin form becomes layers of a network."""
    conversion = torch_tensorrt.dynamo.conversion
    utilities = importlib.import_module("torch_tensorrt.dynamo.conversion.converter_utils")
    for name, add_layers in CONVERTERS.items():
        op = getattr(torch.ops.rmt_edge, name).default
        conversion.dynamo_tensorrt_converter(op, supports_dynamic_shapes=True)(
            _converter(trt, add_layers, utilities.get_trt_tensor)
        )


def _converter(trt: ModuleType, add_layers: Callable, get_trt_tensor: Callable) -> Callable:
    """A converter in Torch-TensorRT's form around one of CONVERTERS."""

    def converter(ctx: Any, target: Any, args: tuple, kwargs: dict, name: str) -> Any:
        def constant(value: Any, constant_name: str) -> Any:
            return get_trt_tensor(ctx, torch.as_tensor(value), constant_name)

        def tensor(value: Any, position: int) -> Any:
            return get_trt_tensor(ctx, value, f"{name}/input_{position}")

        return add_layers(trt, ctx.net, args, tensor, constant, name)

    return converter


# A tensor of the network from an op's argument, which may be a constant; position: of the argument.
Tensor = Callable[[Any, int], Any]


def retention_layers(trt: ModuleType, network: Any, args: tuple, tensor: Tensor, constant: Constant, name: str) -> Any:
    """layer_retention: its plugin, and the way back from INT8 where it quantises."""
    inputs = [tensor(value, position) for position, value in enumerate(args[:5])]
    num_heads, decay, decomposed, output_scale = args[5:]
    channels = inputs[4].shape[0]
    fields = retention_fields(num_heads, list(decay), decomposed, channels, output_scale)
    layer = add_plugin_layer(trt, network, OP_TYPE, inputs, fields, name)
    return _wide(trt, network, layer.get_output(0), inputs[0], output_scale, constant, name)


def depthwise_layers(trt: ModuleType, network: Any, args: tuple, tensor: Tensor, constant: Constant, name: str) -> Any:
    """layer_depthwise: its plugin, and the way back from INT8 where it quantises."""
    inputs = [tensor(value, position) for position, value in enumerate(args[:3])]
    output_scale = args[3]
    fields = depthwise_fields(inputs[2].shape[0], None, output_scale)
    op_type = op_type_of(False, False, output_scale > 0)
    layer = add_plugin_layer(trt, network, op_type, inputs, fields, name)
    return _wide(trt, network, layer.get_output(0), inputs[0], output_scale, constant, name)


def depthwise_norm_layers(
    trt: ModuleType, network: Any, args: tuple, tensor: Tensor, constant: Constant, name: str
) -> tuple[Any, Any]:
    """layer_depthwise_norm: its plugin with two outputs, the second back from INT8 where it quantises."""
    x, weight, bias, norm_weight, norm_bias, residual, epsilon, output_scale = args
    given = [x, weight, bias, *([] if residual is None else [residual]), norm_weight, norm_bias]
    inputs = [tensor(value, position) for position, value in enumerate(given)]
    fields = depthwise_fields(inputs[2].shape[0], epsilon, output_scale)
    op_type = op_type_of(residual is not None, True, output_scale > 0)
    layer = add_plugin_layer(trt, network, op_type, inputs, fields, name)
    norm = _wide(trt, network, layer.get_output(1), inputs[0], output_scale, constant, name)
    return layer.get_output(0), norm


def int8_linear_layers(
    trt: ModuleType, network: Any, args: tuple, tensor: Tensor, constant: Constant, name: str
) -> Any:
    """layer_int8_linear: Q/DQ of its input and weights around a matrix product."""
    x, weight, weight_scale, bias, input_scale = args
    return add_int8_linear(trt, network, tensor(x, 0), weight, weight_scale, bias, input_scale, constant, name)


def _wide(
    trt: ModuleType, network: Any, out: Any, like: Any, output_scale: float, constant: Constant, name: str
) -> Any:
    """A plugin's output in the type of `like`, from INT8 if it has a scale."""
    if not output_scale:
        return out
    numpy_type = np.float16 if like.dtype == trt.DataType.HALF else np.float32
    scale = constant(np.array(output_scale, numpy_type), f"{name}/output_scale")
    return dequantized(trt, network, out, scale, like, name)


CONVERTERS = {
    "layer_retention": retention_layers,
    "layer_depthwise": depthwise_layers,
    "layer_depthwise_norm": depthwise_norm_layers,
    "layer_int8_linear": int8_linear_layers,
}
