"""What detectors and segmenters share, as nodes: the backbone's maps, the feature pyramid, convolutions, resizes.

Maps are NCHW as in model/fpn.py and lie between nodes as Map: the name of a tensor and its grid, which is fixed.
"""

from typing import NamedTuple

import numpy as np

from rmt_edge.graph.network import write_trunk
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.folded import FoldedBackbone
from rmt_edge.model.fpn import CONVOLVED, FPN, POOLED, ConvModule
from rmt_edge.model.rmt import stage_grid

NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}  # PyTorch's align_corners=False


class Map(NamedTuple):
    """A feature map (b, c, h, w): its tensor and (h, w)."""

    name: str
    grid: tuple[int, int]


def write_backbone(graph: GraphWriter, backbone: FoldedBackbone) -> list[Map]:
    """FoldedBackbone.forward."""
    maps = []
    for index, tokens in enumerate(write_trunk(graph, backbone, "backbone.")):
        normed = graph.layer_norm(tokens, f"backbone.extra_norms.{index}", backbone.extra_norms[index])
        maps.append(Map(graph.nchw(normed), stage_grid(index, backbone.height, backbone.width)))
    return maps


def write_conv(graph: GraphWriter, x: Map, name: str, module: ConvModule, place: str = "") -> Map:
    """ConvModule.forward, its BatchNorm folded. place: of one module that several levels share, as `@P3`."""
    assert module.bn is None, name
    out = graph.conv(x.name, f"{name}.conv", module.conv, place)
    stride = module.conv.stride[0]
    grid = (-(-x.grid[0] // stride), -(-x.grid[1] // stride))
    return Map(graph.node("Relu", [out], f"{out}/relu") if module.activation else out, grid)


def write_resize(graph: GraphWriter, x: Map, grid: tuple[int, int], name: str, how: dict[str, str]) -> Map:
    """F.interpolate to a size; nothing where that is its size."""
    if x.grid == grid:
        return x
    # All four sizes: TensorRT-RTX 1.7.1 does not know the batch's with `axes`.
    kept = graph.node("Shape", [x.name], f"{name}/kept", start=0, end=2)
    target = graph.constant(f"grid/{grid[0]}x{grid[1]}", np.array(grid, np.int64))
    sizes = graph.node("Concat", [kept, target], f"{name}/sizes", axis=0)
    return Map(graph.node("Resize", [x.name, "", "", sizes], name, **how), grid)


def write_fpn(graph: GraphWriter, maps: list[Map], neck: FPN) -> list[Map]:
    """FPN.forward."""
    maps = maps[-len(neck.lateral_convs) :]
    sums = [
        write_conv(graph, x, f"neck.lateral_convs.{i}", conv)
        for i, (x, conv) in enumerate(zip(maps, neck.lateral_convs, strict=True))
    ]
    for level in range(len(sums) - 1, 0, -1):
        above = write_resize(graph, sums[level], sums[level - 1].grid, f"neck/up.{level}", NEAREST)
        total = graph.node("Add", [sums[level - 1].name, above.name], f"neck/sum.{level - 1}")
        sums[level - 1] = Map(total, sums[level - 1].grid)
    levels = [write_conv(graph, x, f"neck.fpn_convs.{i}", neck.fpn_convs[i]) for i, x in enumerate(sums)]
    if neck.top == POOLED:
        h, w = levels[-1].grid
        pooled = graph.node("MaxPool", [levels[-1].name], "neck/pooled", kernel_shape=[1, 1], strides=[2, 2])
        levels.append(Map(pooled, (-(-h // 2), -(-w // 2))))
    elif neck.top == CONVOLVED:
        for source in (maps[-1], None):
            number = len(levels)
            name = f"neck.fpn_convs.{number}"
            levels.append(write_conv(graph, source or levels[-1], name, neck.fpn_convs[number]))
    return levels
