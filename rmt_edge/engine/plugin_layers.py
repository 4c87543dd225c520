"""Put rmt-edge's layers into a TensorRT network by hand, where no ONNX parser does it from a node.

The TensorRT module and the network are passed in, and everything here is TensorRT's own API: the converters for
Torch-TensorRT call it (engine/torch_trt.py). Plugin layers need INetworkDefinition.add_plugin_v3, which TensorRT has
from 10.3 to 11.4, and TensorRT-RTX 1.7 has not from Python.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import PLUGIN_NAMESPACE, PLUGIN_VERSION

# A plugin's attributes as README.md of this folder names them: int32 or float32 arrays.
Fields = dict[str, np.ndarray]
# Makes a constant of a network, and keeps its values for as long as the network needs them.
Constant = Callable[[np.ndarray, str], Any]


def retention_fields(
    num_heads: int, decay: list[float], decomposed: bool, channels: int, output_scale: float = 0.0
) -> Fields:
    """The attributes of a Retention plugin. output_scale: above 0 makes its output INT8."""
    fields = _integers(num_heads=num_heads, decomposed=int(decomposed), channels=channels)
    fields["decay"] = np.array(decay, np.float32)
    return fields | _floats(output_scale=output_scale)


def depthwise_fields(channels: int, epsilon: float | None = None, output_scale: float = 0.0) -> Fields:
    """The attributes of a DepthwiseResidual plugin. epsilon: of its LayerNorm, None for no norm."""
    return _integers(channels=channels) | _floats(epsilon=epsilon or 0.0, output_scale=output_scale)


def _integers(**values: int) -> Fields:
    return {name: np.array([value], np.int32) for name, value in values.items()}


def _floats(**values: float) -> Fields:
    """Those that are given: a plugin takes no 0 where it expects a number above it."""
    return {name: np.array([value], np.float32) for name, value in values.items() if value}


def create_plugin(trt: ModuleType, op_type: str, fields: Fields, name: str) -> Any:
    """A plugin of the loaded library (plugin/load.py), or an error with the attributes that it refuses."""
    creator: Any = trt.get_plugin_registry().get_creator(op_type, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    if creator is None:
        raise RmtEdgeError(
            f"{trt.__name__} {trt.__version__} knows no plugin {op_type}.",
            do="Load the plugin library first: rmt_edge.plugin.load.load_plugins.",
        )
    types = {"int32": trt.PluginFieldType.INT32, "float32": trt.PluginFieldType.FLOAT32}
    values = [trt.PluginField(key, value, types[value.dtype.name]) for key, value in fields.items()]
    plugin = creator.create_plugin(name, trt.PluginFieldCollection(values), trt.TensorRTPhase.BUILD)
    if plugin is None:
        given = ", ".join(f"{key} {value.tolist()}" for key, value in fields.items())
        raise RmtEdgeError(
            f"The plugin {op_type} of {name} refuses its attributes: {given}.", do="Its message says why."
        )
    return plugin


def add_plugin_layer(trt: ModuleType, network: Any, op_type: str, inputs: list[Any], fields: Fields, name: str) -> Any:
    """Add one plugin layer. inputs: network tensors in the plugin's order, all of one element type."""
    if not hasattr(network, "add_plugin_v3"):
        raise RmtEdgeError(
            f"{trt.__name__} {trt.__version__} adds no plugin layers from Python.",
            "TensorRT does; TensorRT-RTX takes plugins from ONNX files alone.",
            "Build from the ONNX file: rmt-edge build FILE.onnx.",
        )
    layer = network.add_plugin_v3(inputs, [], create_plugin(trt, op_type, fields, name))
    if layer is None:
        raise RmtEdgeError(f"{trt.__name__} {trt.__version__} refuses the plugin {op_type} of {name}.")
    layer.name = name
    return layer


def dequantized(trt: ModuleType, network: Any, quantized: Any, scale: Any, like: Any, name: str, axis: int = 0) -> Any:
    """An INT8 tensor in the type of `like`. scale: a tensor, () or, along `axis`, one per channel."""
    layer = network.add_dequantize(quantized, scale, like.dtype)
    layer.axis = axis
    layer.name = f"{name}/dequantized"
    return layer.get_output(0)


def add_int8_linear(
    trt: ModuleType,
    network: Any,
    x: Any,
    weight: np.ndarray,
    weight_scale: np.ndarray,
    bias: np.ndarray | None,
    input_scale: np.ndarray | None,
    constant: Constant,
    name: str,
) -> Any:
    """x·Wᵀ + bias by an INT8 matrix product.

    x: (m, in), a network tensor. weight: (out, in) int8; weight_scale: (out,) or (); bias: (1, out). input_scale: (),
    or None where x was quantised inside the plugin that it comes from. Scales and bias have the type of x.
    """
    if input_scale is not None:
        scale = constant(input_scale, f"{name}.input_scale")
        quantize = network.add_quantize(x, scale, trt.DataType.INT8)
        quantize.name = f"{name}/quantized"
        x = dequantized(trt, network, quantize.get_output(0), scale, x, f"{name}/input")
    weights = dequantized(
        trt,
        network,
        constant(weight, f"{name}.weight_int8"),
        constant(weight_scale, f"{name}.weight_scale"),
        x,
        f"{name}.weight",
    )
    none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    product = network.add_matrix_multiply(x, none, weights, transpose)
    product.name = f"{name}/product"
    if bias is None:
        return product.get_output(0)
    total = network.add_elementwise(product.get_output(0), constant(bias, f"{name}.bias"), trt.ElementWiseOperation.SUM)
    total.name = name
    return total.get_output(0)
