"""Calibrate: the INT8 ranges of a recipe's layers over a data set, with nvidia-modelopt's calibrators.

Ranges are symmetric, float32, and named after what they are of:

    <layer>.weight_amax                            (out,) or (1,)
    <layer>.input_amax                             ()
    <layer>_output.product_amax                    ()   the raw product of a Linear layer of a block: what it writes
                                                        without bias, over its channels' multiples (ops/product.py)
    <layer>_sum.left_amax, <layer>_sum.right_amax  ()   the operands of the addition behind pos, out_proj, dwconv, fc2:
                                                        what comes past the layer, and what comes out of it

A recipe's method says how a range follows from what was seen:

    max          the largest magnitude, of weights and inputs
    entropy      inputs: the range at which rounding changes their distribution least (Kullback-Leibler divergence)
    percentile   inputs: the magnitude below which that percentage of values lies
    mse          weights and inputs: the range of least mean squared rounding error
    smoothquant  max, after qkv and fc1 were smoothed: see `smoothed`

Entropy and percentile leave weights at max: modelopt's histograms are per tensor, weights have a range per channel.
"""

import contextlib
import copy
import sys
import warnings
from collections.abc import Callable

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.calib import HistogramCalibrator, MaxCalibrator, MseCalibrator
from modelopt.torch.quantization.tensor_quant import fake_tensor_quant
from torch import Tensor, nn

from rmt_edge.data.dataset import Dataset
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.folded import FoldedRMT, Ranges, Sum
from rmt_edge.model.layers import source_of
from rmt_edge.progress import progress_bar
from rmt_edge.quantization.fake_quant import product_vectors
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.quantization.selection import int8_layers_of

# Every eighth of the 2,048 bins is a candidate, 0.4 % of the largest magnitude apart: 0.2 s a layer instead of 1.7 s.
ENTROPY_STRIDE = 8
# Candidates of mse, as parts of the largest magnitude. modelopt's own (0.25 to 4 by 0.1) leave out 1.
MSE_GRID = {"start_multiplier": 0.1, "stop_multiplier": 1.0, "step_size": 0.02}
# The layers whose input is a LayerNorm's output, into which a scale per channel folds without a trace.
NORM_BEFORE = {"qkv": "retention_layer_norm", "fc1": "final_layer_norm"}


CPU = torch.device("cpu")


def calibrate(
    folded: FoldedRMT | Downstream,
    recipe: QuantizationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    device: torch.device = CPU,
) -> Ranges:
    """Ranges of the recipe's layers (and residual additions) over images drawn of the data set (data/draw.py).

    With the method smoothquant, the model is to be `smoothed` before. device: where it runs. The model and the ranges
    are on the CPU; the model is left as it is.
    """
    names = int8_layers_of(recipe, folded)
    ranges = {}
    for name in (name for name in names if source_of(name) is None):
        key = f"{name}.weight_amax"
        weight = folded.get_submodule(name).weight.detach()
        ranges[key] = _checked_range(_weight_range(weight, recipe), key)
    operands: dict[str, tuple[str, ...]] = {name: ("product" if source_of(name) else "input",) for name in names}
    if recipe.residual_adds:
        operands |= {name: ("left", "right") for name, x in folded.named_modules() if isinstance(x, Sum)}
    running = folded if device.type == "cpu" else copy.deepcopy(folded).to(device)
    collected: dict[str, MaxCalibrator | HistogramCalibrator] = {}
    hooks = []
    for name, sides in operands.items():
        calibrators = [_input_calibrator(recipe.method) for _ in sides]
        collected |= {f"{name}.{side}_amax": x for side, x in zip(sides, calibrators, strict=True)}
        source = source_of(name)
        vectors = product_vectors(running.get_submodule(source), ranges[f"{source}.weight_amax"]) if source else None
        hooks.append(running.get_submodule(name).register_forward_pre_hook(_collecting(name, calibrators, vectors)))
    try:
        _run_images(running, recipe, dataset, preprocessing)
    finally:
        for hook in hooks:
            hook.remove()
    for key, calibrator in progress_bar(collected.items(), "ranges", unit="layer", leave=False):
        ranges[key] = _checked_range(_input_range(calibrator, recipe), key)
    return ranges


def smoothed(
    folded: FoldedRMT | Downstream,
    recipe: QuantizationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    device: torch.device = CPU,
) -> FoldedRMT | Downstream:
    """SmoothQuant (Xiao et al., arXiv 2211.10438): the same function, with inputs that are easier to round.

    Of the recipe's INT8 layers, each input channel of qkv and fc1 is multiplied by modelopt's scale, and its weights
    divided by it; the LayerNorm before the layer does the multiplying, so that no operation is added. The other layers
    have no LayerNorm before them: they stay as they are, and their ranges are the largest magnitudes.
    """
    names = [x for x in int8_layers_of(recipe, folded) if x.rpartition(".")[2] in NORM_BEFORE]
    if not names:
        raise RmtEdgeError(
            f"The recipe {recipe.name} smooths no layer.",
            "smoothquant acts on qkv and fc1, and neither is in INT8.",
            "Name them in int8, or use another method.",
        )
    config: list[dict] = [{"quantizer_name": "*", "enable": False}]
    for name in names:
        config.append({"quantizer_name": f"{name}.weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}})
        config.append({"quantizer_name": f"{name}.input_quantizer", "cfg": {"num_bits": 8, "axis": None}})
    algorithm = {"method": "smoothquant", "alpha": recipe.alpha}
    made, quantized = copy.deepcopy(folded), copy.deepcopy(folded).to(device)
    for name in names:
        quantized.get_submodule(name).register_forward_pre_hook(_collecting(name, []))
    # modelopt prints, and stdout is for results; and it warns of each layer that it was told to leave alone.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is not calibrated, skip smoothing")
        mtq.quantize(
            quantized,
            {"quant_cfg": config, "algorithm": algorithm},
            lambda model: _run_images(model, recipe, dataset, preprocessing),
        )
    for name in names:
        block, _, kind = name.rpartition(".")
        layer, norm = made.get_submodule(name), made.get_submodule(f"{block}.{NORM_BEFORE[kind]}")
        scale = quantized.get_submodule(name).input_quantizer.pre_quant_scale.detach().cpu().flatten()  # (in,)
        with torch.no_grad():
            layer.weight.div_(scale)
            norm.weight.mul_(scale)
            norm.bias.mul_(scale)
    return made


def _run_images(model: nn.Module, recipe: QuantizationRecipe, dataset: Dataset, preprocessing: Preprocessing) -> None:
    """The recipe's images through the model, where it is."""
    batch, device = images_at_a_time(preprocessing, recipe.batch), next(model.parameters()).device
    batches = dataset.drawn(recipe.images).batches(preprocessing, batch)
    total = -(-recipe.images // batch)
    with torch.no_grad():
        for images in progress_bar(batches, "calibrate", total, unit="batch", leave=False):
            model(torch.from_numpy(images).to(device))


def _input_calibrator(method: str) -> MaxCalibrator | HistogramCalibrator:
    """modelopt's calibrator for one tensor: a running maximum, or a histogram of magnitudes."""
    if method in ("max", "smoothquant"):
        return MaxCalibrator(num_bits=8, axis=None)
    return HistogramCalibrator(num_bits=8, axis=None)


def _collecting(name: str, calibrators: list, vectors: tuple[Tensor, Tensor] | None = None) -> Callable:
    """A forward pre-hook that shows each input to its calibrator, and names the layer where one is not finite.

    vectors: multiples and bias of an output, whose calibrator sees the raw product.
    """

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not all(torch.isfinite(x).all() for x in inputs):
            raise RmtEdgeError(
                f"The input of {name} holds NaN or infinite values on the calibration images.",
                "a range is finite and above zero.",
                "The checkpoint computes them in float32 already: look at its weights and at the preprocessing.",
            )
        for x, calibrator in zip(inputs, calibrators, strict=False):
            calibrator.collect(x if vectors is None else (x - vectors[1]) / vectors[0])

    return hook


def _input_range(calibrator: MaxCalibrator | HistogramCalibrator, recipe: QuantizationRecipe) -> Tensor:
    """The range of one tensor from what its calibrator has seen."""
    if isinstance(calibrator, MaxCalibrator):
        return calibrator.compute_amax()
    if recipe.method == "entropy":
        return calibrator.compute_amax("entropy", stride=ENTROPY_STRIDE)
    if recipe.method == "percentile":
        return calibrator.compute_amax("percentile", percentile=recipe.percentile)
    # modelopt 0.47's compute_amax("mse") hands its number of bits to another argument and rounds with none.
    edges, counts = calibrator._calib_bin_edges, calibrator._calib_hist
    centres = (edges[1:] + edges[:-1])[: len(counts)] / 2
    return _range_of_least_error(centres, edges[-1], counts=counts)


def _weight_range(weight: Tensor, recipe: QuantizationRecipe) -> Tensor:
    """The range of a weight (out, …): (out, 1, …), or () for one in all."""
    axis = 0 if recipe.weights == "per_channel" else None
    largest = MaxCalibrator(num_bits=8, axis=axis)
    if not torch.isfinite(weight).all():
        return torch.tensor(float("nan"))
    largest.collect(weight)
    amax = largest.compute_amax()
    return _range_of_least_error(weight, amax, axis) if recipe.method == "mse" else amax


def _range_of_least_error(
    values: Tensor, largest: Tensor, axis: int | None = None, counts: Tensor | None = None
) -> Tensor:
    """The part of the largest magnitude at which rounding the values to INT8 has the least squared error.

    counts: how often each value occurs, once by default.
    """

    def error(x: Tensor, rounded: Tensor) -> Tensor:
        squared = (rounded - x) ** 2
        return squared if counts is None else squared * counts

    def rounded(x: Tensor, amax: Tensor) -> Tensor:
        return fake_tensor_quant(x, amax)  # 8 bits, signed, by default

    calibrator = MseCalibrator(largest, axis, **MSE_GRID, quant_func=rounded, error_func=error)
    calibrator.collect(values)
    return calibrator.compute_amax()


def _checked_range(amax: Tensor, key: str) -> Tensor:
    """The range of a tensor as float32: one number, or for weights one per output channel.

    A channel of zeros is exact in INT8; a whole tensor of zeros, a NaN or an infinity is a fault upstream.
    """
    if not torch.isfinite(amax).all() or not (amax >= 0).all() or amax.max() <= 0:
        raise RmtEdgeError(
            f"The calibrated range of {key.removesuffix('_amax')} is {amax.min().item():g} to {amax.max().item():g}.",
            "a range is finite and above zero.",
            "Look at the calibration images and at the preprocessing: are they what the checkpoint was trained on?",
        )
    values = amax.detach().float().cpu().flatten()
    return values if key.endswith(".weight_amax") else values[0]
