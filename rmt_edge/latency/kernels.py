"""The kernels of a plugin engine, from the plugin form of its ONNX file: what each multiplies, reads and writes.

Which nodes one kernel takes is as TensorRT-RTX 1.7.1 lists it (bench/engine_layers.py):

- a convolution, a matrix product or a plugin is a kernel; a decomposed Retention is two, its passes;
- all else is free (reshapes, layouts, and dequantisation, which the reader does) or light. Light nodes that are joined
  are one kernel, unless a product lies between them;
- in FP16 a product takes bias and light nodes behind it that read nothing else, reductions apart; in INT8 it takes a
  quantisation, and no more: a scale per channel or a bias is a kernel of its own, or goes into that of the light nodes
  behind it. With is_dequantize_fused it takes these as in FP16.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from rmt_edge.latency.shapes import Tensor, tensors_of
from rmt_edge.ops.retention.onnx_function import DOMAIN, OP_TYPE

PRODUCTS = ("Gemm", "MatMul", "Conv")
FREE = ("Reshape", "Transpose", "Identity", "DequantizeLinear")
REDUCTIONS = ("LayerNormalization", "ReduceMean", "ReduceMax", "Softmax")
GRID_HEAD_DIM, LONGEST_GRID_SIDE = 32, 16  # of a Retention whose passes are one kernel
_BLOCK = re.compile(r"stages\.\d+\.(blocks\.\d+|downsample)")
_SUM = re.compile(r"stages\.(\d+)/")


@dataclass(frozen=True)
class Kernel:
    """One kernel for one image: multiply-adds on tensor cores, bytes of activations read and written, weight bytes.

    part: the block or the part outside blocks that it belongs to, `stages.1.blocks.2`, `stem`, `stages.0.downsample`,
    `head`. plugin: of a plugin its op type, with `W` or `H` behind that of a decomposed Retention's pass; "" of
    TensorRT's own. size: of a plugin its grid and channels, (h, w, c). reads_int8, writes_int8: of a plugin's first
    input and last output.
    """

    name: str
    part: str
    multiply_adds: int
    is_int8: bool
    activation_bytes: int
    weight_bytes: int
    plugin: str = ""
    size: tuple[int, int, int] = (0, 0, 0)
    reads_int8: bool = False
    writes_int8: bool = False

    @property
    def counted_as(self) -> str:
        """What latency/issue.toml calls a plugin's kernel: its name with the types that it reads and writes."""
        return f"{self.plugin}{', reads int8' * self.reads_int8}{', writes int8' * self.writes_int8}"


@dataclass
class _Group:
    """Nodes that run as one kernel so far. reads, writes: tensors of other kernels, without constants."""

    nodes: list[NodeProto]
    reads: list[str]
    writes: list[str]

    @property
    def name(self) -> str:
        return self.nodes[0].name or self.nodes[-1].output[0]


def kernels_of(model: ModelProto, is_dequantize_fused: bool) -> list[Kernel]:
    """The kernels of a plugin engine of that plugin form, in the order in which they run.

    is_dequantize_fused: whether an INT8 matrix product multiplies by its scales, adds its bias and applies its GELU
    itself. TensorRT's documentation says that it does ("Working with Quantized Types"); TensorRT-RTX 1.7.1 lists a
    kernel of its own for it.
    """
    graph = _Graph(model)
    groups = _merged(graph, _groups(graph), is_dequantize_fused)
    kernels: list[Kernel] = []
    for group in groups:
        first = group.nodes[0]
        if first.domain == DOMAIN:
            kernels += _plugin_kernels(graph, group)
            continue
        kernels.append(_costs(graph, group))
        if first.op_type in PRODUCTS and _is_int8(graph, first) and _has_epilogue(graph, first):
            if not is_dequantize_fused:
                kernels += _epilogue(graph, group, [x for x in groups if set(x.reads) & set(group.writes)])
    return kernels


class _Graph:
    """A plugin form with its tensors by name, the free nodes looked through."""

    def __init__(self, model: ModelProto):
        self.tensors: dict[str, Tensor] = tensors_of(model)
        constants = {x.name for x in model.graph.initializer}
        self.constants: dict[str, str] = {x: x for x in constants}  # a tensor -> the constant that it is made of
        self.roots: dict[str, str] = {}
        self.per_channel: set[str] = set()  # constants that were dequantised with a scale per channel
        self.nodes: list[NodeProto] = []
        self.outputs = {x.name for x in model.graph.output}
        for node in model.graph.node:
            if node.op_type in FREE and node.domain == "":
                name = node.input[0]
                if name in self.constants:
                    self.constants[node.output[0]] = self.constants[name]
                    if node.op_type == "DequantizeLinear" and self.tensors[node.input[1]].shape:
                        self.per_channel.add(node.output[0])
                else:
                    self.roots[node.output[0]] = self.root(name)
            else:
                self.nodes.append(node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        # An Identity or a layout that writes an output of the graph: what it reads is the output.
        self.outputs = {self.root(x) for x in self.outputs}

    def root(self, name: str) -> str:
        """The tensor in memory that a name stands for."""
        return self.roots.get(name, name)

    def reads(self, node: NodeProto) -> list[str]:
        """The tensors in memory that a node reads, without constants."""
        return list(dict.fromkeys(self.root(x) for x in node.input if x and x not in self.constants))

    def constant_bytes(self, node: NodeProto) -> int:
        """The bytes of a node's constants, INT8 weights in one byte each."""
        return sum(self.tensors[x].bytes for x in {self.constants[x] for x in node.input if x in self.constants})

    def is_requantized(self, node: NodeProto) -> bool:
        """Whether a node quantises a product as it is: the product writes INT8 then, and no light node joins it."""
        maker = self.makers.get(self.root(node.input[0])) if node.op_type == "QuantizeLinear" else None
        return maker is not None and maker.op_type in PRODUCTS

    def bytes_of(self, names: Iterable[str]) -> int:
        return sum(self.tensors[x].bytes for x in names)


def _is_heavy(node: NodeProto) -> bool:
    return node.domain == DOMAIN or node.op_type in PRODUCTS


def _groups(graph: _Graph) -> list[_Group]:
    """Every heavy node alone, and the light ones with those that they are joined to, in the order of their last node.

    depth: how many heavy nodes lie on the longest way to a node; of two light nodes with another between they differ.
    """
    depth: dict[str, int] = {}
    group_of: dict[str, int] = {}  # a tensor that a light node writes -> its group
    members: dict[int, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        reads = graph.reads(node)
        level = max((depth.get(x, 0) for x in reads), default=0) + _is_heavy(node)
        before = [] if _is_heavy(node) else [x for x in reads if x in group_of and depth[x] == level]
        target, *others = [*dict.fromkeys(group_of[x] for x in before), index]
        for other in others:
            members.setdefault(target, []).extend(members.pop(other, []))
        members.setdefault(target, []).append(index)
        depth |= dict.fromkeys(node.output, level)
        if not (_is_heavy(node) or graph.is_requantized(node)):
            group_of |= dict.fromkeys(node.output, target)
        for joined in others[:-1]:  # the last is this node
            group_of |= {name: target for name, group in group_of.items() if group == joined}
    used = [set(graph.reads(node)) for node in graph.nodes]
    groups = []
    for indices in sorted(members.values(), key=max):
        nodes = [graph.nodes[i] for i in sorted(indices)]
        made = [x for node in nodes for x in node.output]
        outside = set().union(graph.outputs, *(used[i] for i in range(len(used)) if i not in set(indices)))
        inputs = dict.fromkeys(x for node in nodes for x in graph.reads(node) if x not in made)
        groups.append(_Group(nodes, list(inputs), [x for x in made if x in outside]))
    return groups


def _merged(graph: _Graph, groups: list[_Group], is_dequantize_fused: bool) -> list[_Group]:
    """The groups, light ones that a product takes joined to it; INT8 epilogues of their own behind their products."""
    by_output = {name: group for group in groups for name in group.writes}
    found: list[_Group] = []
    for group in groups:
        maker = by_output.get(group.reads[0]) if len(group.reads) == 1 else None
        if maker is not None and not _is_heavy(group.nodes[0]) and _takes(graph, maker, group, is_dequantize_fused):
            maker.nodes += group.nodes
            maker.writes = group.writes
            by_output |= dict.fromkeys(group.writes, maker)
        else:
            found.append(group)
    return found


def _takes(graph: _Graph, maker: _Group, light: _Group, is_dequantize_fused: bool) -> bool:
    """Whether a product takes the light nodes behind it, which read it alone and are all that do."""
    product = maker.nodes[0]
    if product.op_type not in PRODUCTS or len(maker.nodes) > 1 or maker.writes != light.reads:
        return False
    if any(node.op_type in REDUCTIONS for node in light.nodes):
        return False
    if _is_int8(graph, product) and not is_dequantize_fused:
        return not _has_epilogue(graph, product) and all(node.op_type == "QuantizeLinear" for node in light.nodes)
    return True


def _is_int8(graph: _Graph, product: NodeProto) -> bool:
    return graph.tensors[graph.root(product.input[0])].element_type == TensorProto.INT8


def _has_epilogue(graph: _Graph, product: NodeProto) -> bool:
    """Whether an INT8 product has a bias, or a scale per channel."""
    return len(product.input) > 2 or product.input[1] in graph.per_channel


def _costs(graph: _Graph, group: _Group) -> Kernel:
    """A group that is no plugin, as a kernel."""
    first = group.nodes[0]
    is_product = first.op_type in PRODUCTS
    return Kernel(
        group.name,
        part_of(group.name),
        _multiply_adds(graph, first) if is_product else 0,
        is_product and _is_int8(graph, first),
        graph.bytes_of([*group.reads, *group.writes]),
        sum(graph.constant_bytes(node) for node in group.nodes),
    )


def _multiply_adds(graph: _Graph, product: NodeProto) -> int:
    """Of a product on tensor cores; a depthwise convolution does not use them, and is counted by its bytes alone."""
    weight = graph.tensors[product.input[1]]
    attributes = {x.name: helper.get_attribute_value(x) for x in product.attribute}
    if attributes.get("group", 1) > 1:
        return 0
    outer = weight.shape[0] if product.op_type == "Conv" else weight.shape[-1]
    return graph.tensors[product.output[0]].elements * weight.elements // outer


def _epilogue(graph: _Graph, group: _Group, readers: list[_Group]) -> list[Kernel]:
    """The kernel that TensorRT-RTX gives an INT8 product's scales and bias; none where light nodes behind do it too."""
    if len(readers) == 1 and not _is_heavy(readers[0].nodes[0]):
        return []
    name = f"{group.name}/dequantized"
    return [Kernel(name, part_of(name), 0, False, 2 * graph.bytes_of(group.writes), 0)]


def _plugin_kernels(graph: _Graph, group: _Group) -> list[Kernel]:
    """A plugin's kernels: one, or a decomposed Retention's two passes with the output of the first between them."""
    (node,) = group.nodes
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    _, h, w, _ = graph.tensors[node.input[0]].shape
    c = attributes["channels"]
    read, written = graph.bytes_of(group.reads), graph.bytes_of(graph.root(x) for x in node.output)
    fixed = graph.constant_bytes(node)
    part, size = part_of(node.name), (h, w, c)
    types = "input_scale" in attributes, "output_scale" in attributes
    if node.op_type != OP_TYPE:
        op_type = node.op_type.removesuffix("Int8")
        return [Kernel(node.name, part, 0, False, read + written, fixed, op_type, size, *types)]
    # Scores and their product with v: 2·l² for every channel, along each axis where the block is decomposed.
    if not attributes["decomposed"] or is_one_launch(h, w, c // attributes["num_heads"]):
        work = 2 * h * w * c * (h + w if attributes["decomposed"] else h * w)
        name = f"{OP_TYPE} {'WH' if attributes['decomposed'] else 'whole'}"
        return [Kernel(node.name, part, work, False, read + written, fixed, name, size, *types)]
    between = h * w * c * graph.tensors[node.input[1]].bytes // graph.tensors[node.input[1]].elements
    return [
        _pass(node, "w", 2 * h * w * c * w, read + between, fixed, size, (types[0], False)),
        _pass(node, "h", 2 * h * w * c * h, read + between + written, fixed, size, types),
    ]


def _pass(
    node: NodeProto, axis: str, work: int, moved: int, fixed: int, size: tuple[int, int, int], types: tuple[bool, bool]
) -> Kernel:
    """One pass of a decomposed Retention. types: whether it reads and writes INT8."""
    name = f"{node.name}/{axis}"
    return Kernel(name, part_of(node.name), work, False, moved, fixed, f"{OP_TYPE} {axis.upper()}", size, *types)


def is_one_launch(h: int, w: int, head_dim: int) -> bool:
    """Whether both passes of a decomposed Retention are one kernel, where the plugin chooses without timing.

    That kernel keeps a whole grid of one head in shared memory: ops/retention, of the CUDA kernels GRID.
    """
    return head_dim == GRID_HEAD_DIM and all(x % 2 == 0 and x <= LONGEST_GRID_SIDE for x in (h, w))


def part_of(name: str) -> str:
    """The part that a node belongs to; the sum behind a stage's last block to what follows it."""
    if block := _BLOCK.match(name):
        return block[0]
    if stage := _SUM.match(name):
        return "head" if stage[1] == "3" else f"stages.{stage[1]}.downsample"
    return "stem" if name.startswith(("images", "stem")) else "head"
