"""The folded form with any of its layers in INT8, in PyTorch: what the exported graph computes, in float32.

A layer in INT8 rounds its weight and its input to multiples of their steps, as Q/DQ does, a residual addition its two
operands, and an output its raw product, before bias and channels' multiples; the rest stays float32. All ranges are
calibrated once, so that switching from one set of layers to another takes milliseconds. The export holds ONNX Runtime
to this file; sensitivities and the search run nothing else.
"""

from collections.abc import Callable, Collection
from functools import partial
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn

from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.layers import is_product, source_of
from rmt_edge.quantization.formats import INT8_MAX, along_axis, int8_of, product_scales, scale_of

Step = Callable[[Tensor], Tensor]


class FakeQuantizedLayers:
    """The modules of a model that have ranges, each in float32 until it is switched to INT8.

    Closing it, as the end of a `with` does, leaves the model as it was.
    """

    def __init__(self, model: nn.Module, ranges: Ranges, dtype: np.dtype):
        """dtype: of the graph's scales, float16 where the engine runs in FP16."""
        self.input_steps: dict[str, list[float]] = {}  # of each module's inputs, in their order: left before right
        self.vectors: dict[str, tuple[Tensor, Tensor]] = {}  # of each output: its channels' multiples, and bias
        self.float_weights: dict[str, Tensor] = {}
        self.int8_weights: dict[str, Tensor] = {}
        self.hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}
        for key in sorted(ranges):
            name, _, what = key.rpartition(".")
            if what == "weight_amax":
                self.float_weights[name] = model.get_submodule(name).weight.data
                self.int8_weights[name] = rounded_weight(self.float_weights[name], ranges[key], dtype, is_product(name))
            else:
                if source := source_of(name):
                    self.vectors[name] = product_vectors(model.get_submodule(source), ranges[f"{source}.weight_amax"])
                self.input_steps.setdefault(name, []).append(float(scale_of(ranges[key], dtype)))
        self.modules = {name: model.get_submodule(name) for name in self.input_steps}

    def __enter__(self) -> "FakeQuantizedLayers":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.switch_to(())

    def switch_to(self, names: Collection[str]) -> None:
        """Put exactly these modules in INT8."""
        assert set(names) <= set(self.modules), set(names) - set(self.modules)
        for name in set(self.hooks) - set(names):
            self.hooks.pop(name).remove()
            if name in self.float_weights:
                self.modules[name].weight.data = self.float_weights[name]
        for name in set(names) - set(self.hooks):
            if name in self.int8_weights:
                self.modules[name].weight.data = self.int8_weights[name]
            hook = partial(_round_inputs, self.input_steps[name])
            if name in self.vectors:
                hook = partial(_round_product, self.input_steps[name][0], *self.vectors[name])
            self.hooks[name] = self.modules[name].register_forward_pre_hook(hook)


def rounded_weight(weight: Tensor, amax: Tensor, dtype: np.dtype, is_product: bool) -> Tensor:
    """The nearest weight that INT8 holds. weight: (out, …), of a Linear or a convolution; amax: (out,) or (1,)."""
    steps = scale_of(amax, dtype).astype(np.float32)
    if is_product:
        scale, multiples = product_scales(amax, dtype)
        steps = scale.astype(np.float32) * multiples.astype(np.float32)
    steps = along_axis(steps, 0, weight.ndim)
    return torch.from_numpy(int8_of(weight.cpu().numpy(), steps) * steps).to(weight.device)


def product_vectors(linear: nn.Module, amax: Tensor) -> tuple[Tensor, Tensor]:
    """The multiples and the bias, each (out,) float32, that make the output of a layer of its raw product."""
    assert isinstance(linear, nn.Linear), linear
    _, multiples = product_scales(amax, np.dtype(np.float32))
    on_device = torch.from_numpy(multiples).to(linear.bias.device)
    return on_device.expand(linear.out_features), linear.bias.detach()


def _round_product(
    step: float, multiples: Tensor, bias: Tensor, _: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor]:
    """A forward pre-hook: the raw product of which the input is made at multiples of one step."""
    (product,) = _round_inputs([step], _, ((inputs[0] - bias) / multiples,))
    return (product * multiples + bias,)


def _round_inputs(steps: list[float], _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook: the module's inputs at multiples of one step each."""
    low, high = -int(INT8_MAX) - 1, int(INT8_MAX)
    return tuple(
        torch.fake_quantize_per_tensor_affine(x, step, 0, low, high) for x, step in zip(inputs, steps, strict=True)
    )


def steps_of(model: FoldedRMT) -> list[tuple[str, Step]]:
    """The forward pass in steps, of which each takes what the one before returns: stem, blocks, downsamplings, heads.

    A step is named by the prefix of its layers; the last, "classify", has those that no other prefix fits.
    """
    steps: list[tuple[str, Step]] = [("stem", model.embed)]
    for index, stage in enumerate(model.stages):
        constants = {"sin": stage.sin, "cos": stage.cos, "decay": stage.decay.tolist()}
        for number, block in enumerate(stage.blocks):
            steps.append((f"stages.{index}.blocks.{number}", partial(block, **constants)))
        if stage.downsample is not None:
            steps.append((f"stages.{index}.downsample", stage.reduce))
    return [*steps, ("classify", model.classify)]


def first_step(steps: list[tuple[str, Step]], layers: Collection[str]) -> int:
    """The number of the first step that runs one of the layers; of no layers, the number of steps."""
    found = len(steps)
    for layer in layers:
        of_layer = [i for i, (prefix, _) in enumerate(steps) if layer == prefix or layer.startswith(f"{prefix}.")]
        found = min(found, of_layer[0] if of_layer else len(steps) - 1)
    return found
