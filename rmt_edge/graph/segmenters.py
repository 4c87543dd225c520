"""Semantic FPN and UperNet as nodes, from the images to the labels; model/segmenters.py is what they are held to."""

import numpy as np
import torch
from onnx import TensorProto, ValueInfoProto, helper
from torch import nn

from rmt_edge.graph.network import BATCH
from rmt_edge.graph.pyramid import BILINEAR, Map, write_backbone, write_conv, write_fpn, write_resize
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.segmenters import POOL_SIZES, Segmenter, SemanticFPN, Upsample
from rmt_edge.model.spec import LABELS

LOGITS = "decode_head.conv_seg"  # the tensor that the labels come from, in the graph's type


def write_segmenter(graph: GraphWriter, model: Segmenter) -> list[ValueInfoProto]:
    """Nodes from the images to `labels` (b, H, W): uint8, or int32 with more than 256 classes."""
    maps = write_backbone(graph, model.backbone)
    if isinstance(model, SemanticFPN):
        x = _write_semantic_fpn(graph, write_fpn(graph, maps, model.neck), model.decode_head)
    else:
        x = _write_upernet(graph, maps, model.decode_head)
    logits = Map(graph.conv(x.name, LOGITS, model.decode_head.conv_seg), x.grid)
    size = int(model.backbone.height), int(model.backbone.width)
    resized = write_resize(graph, logits, size, "decode_head/resized", BILINEAR)
    label = graph.node("ArgMax", [resized.name], "decode_head/label", axis=1, keepdims=0)
    onnx_type = TensorProto.UINT8 if model.num_classes <= 256 else TensorProto.INT32
    if onnx_type == TensorProto.UINT8:
        label = graph.node("Cast", [label], "decode_head/float_label", to=TensorProto.FLOAT)  # TensorRT's road to it
    graph.node("Cast", [label], LABELS, to=onnx_type)
    return [helper.make_tensor_value_info(LABELS, onnx_type, [BATCH, *size])]


def _write_semantic_fpn(graph: GraphWriter, levels: list[Map], head: nn.Module) -> Map:
    """SemanticFPNHead.forward without its last convolution."""
    branches = []
    for level, x in enumerate(levels):
        for number, step in enumerate(head.scale_heads[level]):
            name = f"decode_head.scale_heads.{level}.{number}"
            if isinstance(step, Upsample):
                x = write_resize(graph, x, (2 * x.grid[0], 2 * x.grid[1]), name, BILINEAR)
            else:
                x = write_conv(graph, x, name, step)
        branches.append(x)
    total = branches[0]
    for level, x in enumerate(branches[1:], start=1):
        same = write_resize(graph, x, total.grid, f"decode_head/resized.{level}", BILINEAR)
        total = Map(graph.node("Add", [total.name, same.name], f"decode_head/sum.{level}"), total.grid)
    return total


def _write_upernet(graph: GraphWriter, maps: list[Map], head: nn.Module) -> Map:
    """UperNetHead.forward without its last convolution."""
    sums = [write_conv(graph, maps[i], f"decode_head.lateral_convs.{i}", x) for i, x in enumerate(head.lateral_convs)]
    sums.append(_write_pooling(graph, maps[-1], head))
    for level in range(len(sums) - 1, 0, -1):
        above = write_resize(graph, sums[level], sums[level - 1].grid, f"decode_head/up.{level}", BILINEAR)
        total = graph.node("Add", [sums[level - 1].name, above.name], f"decode_head/sum.{level - 1}")
        sums[level - 1] = Map(total, sums[level - 1].grid)
    levels = [write_conv(graph, sums[i], f"decode_head.fpn_convs.{i}", x) for i, x in enumerate(head.fpn_convs)]
    levels.append(sums[-1])
    grid = levels[0].grid
    same = [write_resize(graph, x, grid, f"decode_head/resized.{i}", BILINEAR) for i, x in enumerate(levels)]
    joined = Map(graph.node("Concat", [x.name for x in same], "decode_head/levels", axis=1), grid)
    return write_conv(graph, joined, "decode_head.fpn_bottleneck", head.fpn_bottleneck)


def _write_pooling(graph: GraphWriter, x: Map, head: nn.Module) -> Map:
    """UperNetHead.pooled. The adaptive averages are one product with a constant: (b, c, h·w) · (h·w, cells)."""
    weights = pooling_weights(*x.grid)
    flat = graph.node("Reshape", [x.name, graph.constant("flat_map", np.array([0, 0, -1], np.int64))], "psp/flat")
    product = graph.node("MatMul", [flat, graph.floating("psp/weights", weights)], "psp/cells")
    cells = [size * size for size in POOL_SIZES]
    names = [f"psp/cells.{size}" for size in POOL_SIZES]
    split = graph.constant("psp/split", np.array(cells, np.int64))
    graph.nodes.append(helper.make_node("Split", [product, split], names, "psp/split", axis=2))
    joined = [x.name]
    for number, (size, name) in enumerate(zip(POOL_SIZES, names, strict=True)):
        shape = graph.constant(f"psp/shape.{size}", np.array([0, 0, size, size], np.int64))
        pooled = Map(graph.node("Reshape", [name, shape], f"psp/pooled.{size}"), (size, size))
        pooled = write_conv(graph, pooled, f"decode_head.psp_modules.{number}.1", head.psp_modules[number][1])
        joined.append(write_resize(graph, pooled, x.grid, f"psp/resized.{size}", BILINEAR).name)
    whole = Map(graph.node("Concat", joined, "psp/joined", axis=1), x.grid)
    return write_conv(graph, whole, "decode_head.bottleneck", head.bottleneck)


def pooling_weights(h: int, w: int) -> torch.Tensor:
    """What each pixel counts in each cell of adaptive average pooling to all of POOL_SIZES. (h·w, cells)."""
    pixels = torch.eye(h * w).reshape(h * w, 1, h, w)
    pooled = [nn.functional.adaptive_avg_pool2d(pixels, size).flatten(1) for size in POOL_SIZES]
    return torch.cat(pooled, dim=1)
