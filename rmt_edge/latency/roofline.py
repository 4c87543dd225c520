"""Estimate: what latency to expect on a device before owning it, by a roofline over the kernels of a plugin engine.

Each kernel takes max(operations/peak, bytes/bandwidth), and between two kernels lies KERNEL_GAP_US (S. Williams, A.
Waterman, D. Patterson, "Roofline", CACM 2009). The kernels are those that TensorRT-RTX 1.7.1 lists for the plugin form
(bench/engine_layers.py): a block in FP16 is DepthwiseResidual with its LayerNorm, qkv, Retention, out_proj, add with
LayerNorm, fc1 with GELU, DepthwiseResidual, fc2.

It is an estimate, and an optimistic one: no kernel reaches a peak, and none of these has run on a GPU yet. Depthwise
convolutions, LayerNorm, softmax and GELU do not use tensor cores; they are counted by their memory traffic alone. Every
tensor is counted as going through memory, which a large L2 cache saves at small batches. `rmt-edge estimate` puts every
measured record that it finds beside its estimate, with the ratio.
"""

from dataclasses import dataclass

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.rmt import stage_grid
from rmt_edge.model.variants import VARIANTS

# Seen from kernel to kernel inside a CUDA graph: 3.4 us for a kernel of 2.9 us (A. Gray, "Getting Started with CUDA
# Graphs", https://developer.nvidia.com/blog/cuda-graphs/, 2019).
KERNEL_GAP_US = 0.5
FP16, INT8, FP32 = 2, 1, 4  # bytes


@dataclass(frozen=True)
class Network:
    """What the cost of a network follows from."""

    variant: str
    num_classes: int
    height: int
    width: int


@dataclass(frozen=True)
class Kernel:
    """One kernel for one image: multiply-adds on tensor cores, bytes of activations read and written, weight bytes.

    part: the block or the part outside blocks that it belongs to, `stages.1.blocks.2`, `stem`, `stages.0.downsample`,
    `head`.
    """

    name: str
    part: str
    multiply_adds: int
    is_int8: bool
    activation_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class PartEstimate:
    """The estimate of one part. bound_by: what most of its time goes to."""

    name: str
    kernels: int
    latency_ms: float
    bound_by: str


def kernels_of(network: Network, int8_layers: set[str], is_dequantize_fused: bool) -> list[Kernel]:
    """The kernels of a plugin engine in the order in which they run; layers not in int8_layers are FP16.

    is_dequantize_fused: whether an INT8 matrix product multiplies by its scales, adds its bias and applies its GELU
    itself. TensorRT's documentation says that it does ("Working with Quantized Types"); TensorRT-RTX 1.7.1 lists a
    kernel of its own for it.
    """
    writer = _Writer(int8_layers, is_dequantize_fused)
    variant = VARIANTS[network.variant]
    grid_h, grid_w = stage_grid(0, network.height, network.width)
    stem = variant.dims[0] // 2
    half_h, half_w = -(-network.height // 2), -(-network.width // 2)
    sizes = ((half_h * half_w, 3, stem), (half_h * half_w, stem, stem), (grid_h * grid_w, stem, variant.dims[0]))
    read = network.height * network.width
    for index, (tokens, inner, outer) in enumerate((*sizes, (grid_h * grid_w, variant.dims[0], variant.dims[0]))):
        writer.conv(f"stem.{index}", "stem", read * inner, tokens, inner, outer)
        read = tokens
    for stage, depth in enumerate(variant.depths):
        h, w = stage_grid(stage, network.height, network.width)
        for block in range(depth):
            writer.block(f"stages.{stage}.blocks.{block}", h, w, stage, network.variant)
        if stage < 3:
            below_h, below_w = stage_grid(stage + 1, network.height, network.width)
            inner, outer = variant.dims[stage], variant.dims[stage + 1]
            name = f"stages.{stage}.downsample"
            writer.elementwise(f"stages.{stage}/sum", name, 2 * h * w * inner * FP16, h * w * inner * FP16)
            writer.conv(name, name, h * w * inner, below_h * below_w, inner, outer)
    writer.head(network, h * w)
    return writer.kernels


def latency_ms(network: Network, profile: DeviceProfile, batch: int, int8_layers: set[str]) -> float:
    """The estimated GPU time of one batch in milliseconds; layers not in int8_layers are FP16."""
    return sum(part.latency_ms for part in estimate(network, profile, batch, int8_layers))


def estimate(network: Network, profile: DeviceProfile, batch: int, int8_layers: set[str]) -> list[PartEstimate]:
    """The estimate of each block and each part outside blocks, in the order in which they run."""
    bandwidth, fp16, int8 = profile.bandwidth_gb_s, profile.fp16_tflops, profile.int8_tops
    if bandwidth is None or fp16 is None or int8 is None:
        raise RmtEdgeError(
            f"The profile {profile.name} has no peaks to estimate from.",
            "it needs bandwidth_gb_s, fp16_tflops and int8_tops; a profile for several devices has none.",
            "Choose one device: `rmt-edge devices` lists them.",
        )
    seconds: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for kernel in kernels_of(network, int8_layers, is_dequantize_fused=profile.backend == "tensorrt"):
        compute = 2 * kernel.multiply_adds * batch / ((int8 if kernel.is_int8 else fp16) * 1e12)
        memory = (kernel.activation_bytes * batch + kernel.weight_bytes) / (bandwidth * 1e9)
        shares = seconds.setdefault(kernel.part, {"compute": 0.0, "memory": 0.0, "launch": 0.0})
        shares["compute" if compute > memory else "memory"] += max(compute, memory)
        shares["launch"] += KERNEL_GAP_US / 1e6
        counts[kernel.part] = counts.get(kernel.part, 0) + 1
    return [
        PartEstimate(part, counts[part], 1e3 * sum(shares.values()), max(shares, key=lambda x: shares[x]))
        for part, shares in seconds.items()
    ]


class _Writer:
    """Collects kernels; a tensor that an INT8 layer reads is written as INT8 by the kernel before it."""

    def __init__(self, int8_layers: set[str], is_dequantize_fused: bool):
        self.int8_layers, self.is_dequantize_fused = int8_layers, is_dequantize_fused
        self.kernels: list[Kernel] = []

    def add(self, name: str, part: str, multiply_adds: int, activation_bytes: int, weight_bytes: int = 0) -> None:
        is_int8 = name in self.int8_layers
        self.kernels.append(Kernel(name, part, multiply_adds, is_int8, activation_bytes, weight_bytes))

    def elementwise(self, name: str, part: str, read_bytes: int, written_bytes: int) -> None:
        """A kernel that only moves data."""
        self.add(name, part, 0, read_bytes + written_bytes)

    def input_bytes(self, layer: str) -> int:
        """Bytes of an element that the layer reads."""
        return INT8 if layer in self.int8_layers else FP16

    def linear(self, name: str, part: str, tokens: int, inner: int, outer: int, has_own_epilogue: bool = True) -> None:
        """A Linear layer. has_own_epilogue: False where the next kernel multiplies by the scales as it reads."""
        size = self.input_bytes(name)
        bytes_ = tokens * (inner * size + outer * FP16)
        self.add(name, part, tokens * inner * outer, bytes_, inner * outer * size)
        if name in self.int8_layers and has_own_epilogue and not self.is_dequantize_fused:
            self.elementwise(f"{name}/dequantized", part, tokens * outer * FP16, tokens * outer * FP16)

    def conv(self, name: str, part: str, read: int, tokens: int, inner: int, outer: int) -> None:
        """A 3x3 convolution. read: elements of its input."""
        size = self.input_bytes(name)
        self.add(name, part, 9 * tokens * inner * outer, read * size + tokens * outer * FP16, 9 * inner * outer * size)
        if name in self.int8_layers and not self.is_dequantize_fused:
            self.elementwise(f"{name}/dequantized", part, tokens * outer * FP16, tokens * outer * FP16)

    def depthwise(self, name: str, part: str, elements: int, read: int, written_bytes: int) -> None:
        """x + dwconv(x), one kernel in FP16. read: FP16 tensors read.

        In INT8 it is standard operators: quantise into NCHW, convolve, add back in NHWC with what follows.
        """
        if name in self.int8_layers:
            self.elementwise(f"{name}/quantized", part, elements * read * FP16, elements * (INT8 + FP16))
            self.elementwise(f"{name}/conv", part, elements * INT8, elements * FP16)
            self.elementwise(f"{name}/sum", part, 2 * elements * FP16, written_bytes)
        else:
            self.elementwise(name, part, elements * read * FP16, written_bytes)

    def block(self, part: str, h: int, w: int, stage: int, variant_name: str) -> None:
        """The kernels of one block."""
        variant = VARIANTS[variant_name]
        tokens, dim = h * w, variant.dims[stage]
        hidden = dim * variant.ffn_ratios[stage]
        size = tokens * dim
        qkv, out_proj, fc1, fc2 = (f"{part}.{x}" for x in ("qkv", "out_proj", "fc1", "fc2"))
        self.depthwise(f"{part}.pos", part, size, 2, size * (FP16 + self.input_bytes(qkv)))
        self.linear(qkv, part, tokens, dim, 3 * dim)
        # Scores and their product with v: 2·l² for every channel, along each axis where the block is decomposed.
        attended = tokens * (w + h) if variant.decomposed[stage] else tokens * tokens
        bytes_ = 3 * size * FP16 + size * self.input_bytes(out_proj)
        self.add(f"{part}.retention", part, 2 * attended * dim, bytes_)
        self.linear(out_proj, part, tokens, dim, dim, has_own_epilogue=False)
        self.elementwise(f"{part}.sum", part, 2 * size * FP16, size * (2 * FP16 + self.input_bytes(fc1)))
        self.linear(fc1, part, tokens, dim, hidden)
        self.depthwise(f"{part}.dwconv", part, tokens * hidden, 1, tokens * hidden * self.input_bytes(fc2))
        self.linear(fc2, part, tokens, hidden, dim)

    def head(self, network: Network, tokens: int) -> None:
        """From the last tokens to the logits."""
        variant = VARIANTS[network.variant]
        dim, hidden = variant.dims[3], variant.classifier_dim
        self.elementwise("stages.3/sum", "head", 2 * tokens * dim * FP16, tokens * dim * self.input_bytes("proj"))
        self.linear("proj", "head", tokens, dim, hidden)
        self.elementwise("pool", "head", tokens * hidden * FP16, hidden * self.input_bytes("head"))
        self.linear("head", "head", 1, hidden, network.num_classes)
        if variant.has_aux_head:
            self.linear("aux_head", "head", tokens, dim, network.num_classes)
            self.elementwise("aux_head/max", "head", tokens * network.num_classes * FP16, network.num_classes * FP16)
