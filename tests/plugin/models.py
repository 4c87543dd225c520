"""Models of one plugin node, for the parser: no Q/DQ but at an INT8 output, 14 x 14 grid, a dynamic batch."""

import numpy as np
import onnx

from rmt_edge.graph.plugin_form import to_plugin
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES, depthwise_node
from rmt_edge.ops.retention.onnx_function import retention_node


def change_attributes(node, changes):
    """changes: attributes to replace, or to drop if None."""
    kept = [x for x in node.attribute if x.name not in changes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in changes.items() if v is not None)


def one_node_model(d=32, decomposed=1, dtype=np.float16, changes=None):
    """qkv -> Retention -> out on a 14 x 14 grid. changes: attributes to replace, or to drop if None."""
    grid, num_heads, changes = 14, 4, changes or {}
    c, l = num_heads * d, grid * grid
    generator = np.random.default_rng(0)
    weights = {
        "sin": generator.uniform(-1, 1, (l, d)), "cos": generator.uniform(-1, 1, (l, d)),
        "lepe_weight": generator.standard_normal((c, 1, 5, 5)) * 0.2, "lepe_bias": generator.standard_normal(c),
    }  # fmt: skip
    decay = [-0.3 / (i + 1) for i in range(num_heads)]
    node = retention_node(["qkv", *weights], "out", "retention", num_heads, decay, bool(decomposed), c)
    to_plugin(node)
    change_attributes(node, changes)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "retention", [info("qkv", element, ["b", grid, grid, 3 * c])],
        [info("out", element, ["b", grid, grid, c])],
        [onnx.numpy_helper.from_array(x.astype(dtype), name) for name, x in weights.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("rmt_edge", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def quantize_output(model, scale):
    """Let the node write INT8 and a DequantizeLinear read it."""
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("output_scale", scale))
    model.graph.node[0].output[0] = "out_int8"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float16(scale), "out_scale"))
    model.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["out_int8", "out_scale"], ["out"]))
    return model


def depthwise_model(op_type, dtype=np.float16, c=64, k=3, changes=None):
    """x and the residual -> one DepthwiseResidual node on a 14 x 14 grid -> out and norm, dequantised if INT8."""
    has_residual, has_norm, is_int8, is_scaled, has_gelu = OP_TYPES[op_type]
    grid, generator = 14, np.random.default_rng(0)
    shapes = {"weight": (k, k, c), "bias": (c,)} | ({"norm_weight": (c,), "norm_bias": (c,)} if has_norm else {})
    shapes |= {"x_scale": (c,), "x_bias": (c,)} if is_scaled else {}
    weights = {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    images = ["x", "residual"] if has_residual else ["x"]
    names = ["x", "weight", "bias", *images[1:], *list(shapes)[2:]]
    outputs = ["out", "norm"] if has_norm else ["out"]
    made = [*outputs[:-1], "quantized"] if is_int8 else outputs
    epsilon, scale = 1e-6 if has_norm else None, 0.05 if is_int8 else 0.0
    nodes = [depthwise_node(names, made, "depthwise", c, epsilon, scale, is_scaled, has_gelu)]
    assert nodes[0].op_type == op_type
    to_plugin(nodes[0])
    change_attributes(nodes[0], changes or {})
    if is_int8:
        weights["scale"] = dtype(scale)
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["quantized", "scale"], outputs[-1:]))
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    infos = {x: onnx.helper.make_tensor_value_info(x, element, ["b", grid, grid, c]) for x in [*images, *outputs]}
    graph = onnx.helper.make_graph(
        nodes, "depthwise", [infos[x] for x in images], [infos[x] for x in outputs],
        [onnx.numpy_helper.from_array(x, name) for name, x in weights.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("rmt_edge", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
