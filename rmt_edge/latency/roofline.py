"""Estimate: what latency to expect on a device before owning it, by a roofline over the kernels of a plugin engine.

Each kernel takes max(operations/peak, bytes/bandwidth, instructions/issue rate), and between two kernels lies
KERNEL_GAP_US (S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 2009). The kernels are those of the plugin form
(latency/kernels.py), the instructions those of rmt-edge's own (latency/issue.py).

It is an estimate, and an optimistic one: no kernel reaches a peak, and none of these has run on a GPU yet. TensorRT's
own LayerNorms and additions are counted by their memory traffic alone. Every tensor is counted as going through memory,
which a large L2 cache saves at small batches. `rmt-edge estimate` puts every measured record that it finds beside its
estimate, with the ratio.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from onnx import ModelProto

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.network import onnx_from_folded
from rmt_edge.graph.plugin_form import plugin_form
from rmt_edge.latency.issue import issue_seconds
from rmt_edge.latency.kernels import Kernel, kernels_of
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.layers import source_of
from rmt_edge.model.variants import VARIANTS

# Seen from kernel to kernel inside a CUDA graph: 3.4 us for a kernel of 2.9 us (A. Gray, "Getting Started with CUDA
# Graphs", https://developer.nvidia.com/blog/cuda-graphs/, 2019).
KERNEL_GAP_US = 0.5
BOUNDS = ("memory", "compute", "issue", "launch")  # what a part's time may go to


@dataclass(frozen=True)
class Network:
    """What the cost of a network follows from."""

    variant: str
    num_classes: int
    height: int
    width: int


@dataclass(frozen=True)
class PartEstimate:
    """The estimate of one part. bound_by: what most of its time goes to."""

    name: str
    kernels: int
    latency_ms: float
    bound_by: str


def is_dequantize_fused(profile: DeviceProfile) -> bool:
    """Whether the device's TensorRT is taken to apply an INT8 product's scales and bias in it: see kernels_of."""
    return profile.backend == "tensorrt"


def network_form(network: Network, int8_layers: Iterable[str]) -> ModelProto:
    """The plugin form of a network with these layers and outputs in INT8, all others FP16; without its weights.

    An output is in INT8 only with its layer.
    """
    model = _without_weights(network)
    ranges: Ranges = {}
    names = set(int8_layers)
    for name in names:
        if source := source_of(name):
            if source in names:
                ranges[f"{name}.product_amax"] = torch.ones(())
            continue
        ranges[f"{name}.weight_amax"] = torch.ones(len(model.get_parameter(f"{name}.weight")))
        ranges[f"{name}.input_amax"] = torch.ones(())
    dtype = np.dtype(np.float16)
    return plugin_form(onnx_from_folded(model, dtype, ranges, {}, flat_linears=True, has_weights=False))


@lru_cache(8)
def _without_weights(network: Network) -> FoldedRMT:
    """The folded form with tensors that have shapes alone, but for the decays, of which a node has the values."""
    with torch.device("meta"):
        model = FoldedRMT(network.variant, network.num_classes, network.height, network.width)
    for stage, heads in zip(model.stages, VARIANTS[network.variant].num_heads, strict=True):
        stage.register_buffer("decay", -torch.ones(heads))
    return model


@lru_cache(1024)
def network_kernels(network: Network, int8_layers: frozenset[str], is_dequantize_fused: bool) -> list[Kernel]:
    """The kernels of a network with these layers and outputs in INT8, all others FP16."""
    return kernels_of(network_form(network, int8_layers), is_dequantize_fused)


def latency_ms(network: Network, profile: DeviceProfile, batch: int, int8_layers: Iterable[str]) -> float:
    """The estimated GPU time of one batch in milliseconds; what is not in int8_layers is FP16."""
    kernels = network_kernels(network, frozenset(int8_layers), is_dequantize_fused(profile))
    return sum(part.latency_ms for part in estimate(kernels, profile, batch))


def estimate(kernels: list[Kernel], profile: DeviceProfile, batch: int) -> list[PartEstimate]:
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
    for kernel in kernels:
        times = {
            "compute": 2 * kernel.multiply_adds * batch / ((int8 if kernel.is_int8 else fp16) * 1e12),
            "memory": (kernel.activation_bytes * batch + kernel.weight_bytes) / (bandwidth * 1e9),
            "issue": issue_seconds(kernel, profile, batch),
        }
        shares = seconds.setdefault(kernel.part, dict.fromkeys(BOUNDS, 0.0))
        longest = max(times, key=lambda x: times[x])
        shares[longest] += times[longest]
        shares["launch"] += KERNEL_GAP_US / 1e6
        counts[kernel.part] = counts.get(kernel.part, 0) + 1
    return [
        PartEstimate(part, counts[part], 1e3 * sum(shares.values()), max(shares, key=lambda x: shares[x]))
        for part, shares in seconds.items()
    ]
