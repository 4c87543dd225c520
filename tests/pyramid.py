"""P2 to P5 of the golden Mask R-CNN: RMT-T's stages, their norms and the FPN by DOWNSTREAM's plain reading."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from rmt_edge.model.rmt import create_model
from tests.golden.downstream import weights_downstream as weights

EXTRA_NORM_EPSILON = 1e-5  # of extra_norms, unlike the blocks'


def golden_pyramid(folder, name):
    """The golden file as a dict, and P2 to P5, (1, h, w, 256) each, of its picture under its weights."""
    golden = dict(np.load(folder / f"{name}.npz"))
    case = json.loads(str(golden["case"]))
    shapes = weights.load_shapes(folder / "state_dict" / f"{case['config']}.json")
    drawn = weights.fill(shapes, case["seed"], case["offsets"])
    drawn = {key: torch.from_numpy(np.asarray(value)) for key, value in drawn.items()}
    image = torch.from_numpy(weights.prepare(weights.picture(*case["picture"]), 32))
    with torch.no_grad():
        return golden, fpn(backbone(image, drawn), drawn)


def backbone(image, drawn):
    """The four stages' outputs before their down-sampling, normed. (b, c_i, h_i, w_i)."""
    model = create_model("rmt_t")
    state = {key: drawn.get(f"backbone.{key}", value) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    x, levels = model.patch_embed(image), []
    for index, stage in enumerate(model.layers):
        downsample, stage.downsample = stage.downsample, None
        x = stage(x)
        weight, bias = (drawn[f"backbone.extra_norms.{index}.{part}"] for part in ("weight", "bias"))
        levels.append(F.layer_norm(x, x.shape[-1:], weight, bias, EXTRA_NORM_EPSILON).permute(0, 3, 1, 2))
        x = x if downsample is None else downsample(x)
    return levels


def fpn(levels, drawn):
    """1×1 laterals, nearest up-sampling to the size below, 3×3 outputs. NHWC out."""

    def conv(x, name, padding=0):
        return F.conv2d(x, drawn[f"neck.{name}.conv.weight"], drawn[f"neck.{name}.conv.bias"], padding=padding)

    sums = [conv(x, f"lateral_convs.{i}") for i, x in enumerate(levels)]
    for i in (2, 1, 0):
        sums[i] = sums[i] + F.interpolate(sums[i + 1], size=sums[i].shape[2:], mode="nearest")
    return [conv(x, f"fpn_convs.{i}", 1).permute(0, 2, 3, 1).contiguous() for i, x in enumerate(sums)]
