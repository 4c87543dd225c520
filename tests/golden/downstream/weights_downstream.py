"""Deterministic weights and pictures for the downstream golden files. numpy alone; the same numbers on every machine.

The idea is that of `weights.py` (classification): each entry of a state dict is drawn from a generator of its own,
seeded by the pair (seed, crc32 of the parameter's name), so neither order nor framework matters:

    rng = numpy.random.Generator(numpy.random.PCG64([seed, zlib.crc32(name.encode())]))

`names` are those of the public checkpoints' `state_dict` (backbone., neck., rpn_head., roi_head., bbox_head.,
decode_head., auxiliary_head.). If an implementation names its parameters otherwise, map its names to these first.

    fill(shapes, seed, offsets)
                            {name: shape or array} -> {name: float32 array}; leaves out (or passes through, when the
                            value is an array) what is no learned number: *.angle, *.decay, *.num_batches_tracked.
                            `offsets` is the case's own (in each .npz under "case"): it sets how many boxes pass
    load_shapes(path)       reads a state_dict/*.json file of this folder: {name: shape}
    picture(h, w, seed)     a uint8 RGB picture (h, w, 3): gradients, rectangles, discs, noise
    prepare(pic, divisor)   the public pipeline after its resize: normalise, pad right and bottom with zeros, CHW, batch
    metas(...)              the numbers of the public `img_metas` that the post-processing needs

Draws, first rule that fits; N = rng.standard_normal(shape), fan_in = product of shape[1:] (shape[0] for the transposed
convolution `upsample.weight`):

    *.running_var                        0.5 + rng.random(shape)
    *.running_mean                       0.05 N
    *.gamma_1, *.gamma_2                 0.5 + 0.1 N
    1-D *.weight (norms)                 1 + 0.1 N
    1-D *.bias                           0.05 N, plus the offset of OFFSETS when the name ends so
                                         (fc_cls: the offset goes to the last entry alone, the background)
    the outputs listed in GAINS          gain * N / sqrt(fan_in)
    backbone q_proj, k_proj              N / sqrt(fan_in)
    backbone patch_embed, downsample     1.4 N / sqrt(fan_in)
    other backbone weights               0.4 N / sqrt(fan_in)
    any other weight                     1.4 N / sqrt(fan_in)
"""

import json
import math
import zlib

import numpy as np

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

GAINS = {
    "neck.fpn_convs.2.conv.weight": 3.0,
    "neck.fpn_convs.3.conv.weight": 5.0,
    "neck.fpn_convs.4.conv.weight": 4.0,
    "retina_cls.weight": 0.6,
    "retina_reg.weight": 0.2,
    "rpn_cls.weight": 0.25,
    "rpn_reg.weight": 0.1,
    "fc_cls.weight": 0.5,
    "fc_reg.weight": 0.6,
    "conv_logits.weight": 0.6,
    "conv_seg.weight": 1.0,
}
OFFSETS = {"retina_cls.bias": -9.0, "fc_cls.bias": 6.5}


def _draw(name, shape, seed, offsets):
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    if name.endswith("running_var"):
        return 0.5 + rng.random(shape)
    normal = rng.standard_normal(shape)
    if name.endswith("running_mean"):
        return 0.05 * normal
    if name.endswith(("gamma_1", "gamma_2")):
        return 0.5 + 0.1 * normal
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.1 * normal
    if len(shape) <= 1:
        value = 0.05 * normal
        for ending, offset in offsets.items():
            if name.endswith(ending):
                if ending.startswith("fc_cls"):
                    value[-1] += offset
                else:
                    value += offset
        return value
    fan_in = shape[0] if name.endswith("upsample.weight") else math.prod(shape[1:])
    gain = next((g for ending, g in GAINS.items() if name.endswith(ending)), None)
    if gain is None:
        if not name.startswith("backbone."):
            gain = 1.4
        elif name.endswith(("q_proj.weight", "k_proj.weight")):
            gain = 1.0
        elif ".patch_embed." in name or ".downsample." in name:
            gain = 1.4
        else:
            gain = 0.4
    return gain * normal / math.sqrt(fan_in)


def fill(shapes, seed, offsets=None):
    """Draw every learned entry; {name: float32 array}. offsets: the case's own in place of OFFSETS' values."""
    filled = {}
    offsets = {**OFFSETS, **(offsets or {})}
    for name, value in shapes.items():
        is_shape = isinstance(value, (tuple, list))
        if name.endswith(("angle", "decay", "num_batches_tracked")):
            if not is_shape:
                filled[name] = np.asarray(value)
            continue
        shape = tuple(value) if is_shape else tuple(value.shape)
        filled[name] = np.asarray(_draw(name, shape, seed, offsets), dtype=np.float32)
    return filled


def load_shapes(path):
    """{name: shape} from one of the state_dict/*.json files."""
    with open(path, encoding="utf-8") as file:
        return {name: tuple(shape) for name, shape in json.load(file)["entries"].items()}


def picture(height, width, seed):
    """A uint8 RGB picture with edges, flat areas and noise."""
    rng = np.random.Generator(np.random.PCG64([seed, height, width]))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    slope = rng.uniform(-60, 60, (2, 3))
    image = 128 + slope[0] * (x / width - 0.5)[..., None] + slope[1] * (y / height - 0.5)[..., None]
    for index in range(14):
        colour = rng.uniform(0, 255, 3)
        top, left = rng.uniform(0, height), rng.uniform(0, width)
        tall, wide = rng.uniform(0.06, 0.45, 2) * (height, width)
        if index % 2:
            inside = (np.abs(y - top) < tall / 2) & (np.abs(x - left) < wide / 2)
        else:
            inside = ((y - top) / (tall / 2)) ** 2 + ((x - left) / (wide / 2)) ** 2 < 1
        image[inside] = 0.8 * colour + 0.2 * image[inside]
    image += rng.normal(0, 12, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def prepare(pic, divisor=32):
    """(h, w, 3) uint8 RGB -> (1, 3, H, W) float32, H and W the next multiples of divisor (1: no padding)."""
    scaled = (pic.astype(np.float32) - np.asarray(MEAN)).astype(np.float32)
    scaled = (scaled * (1 / np.asarray(STD))).astype(np.float32)
    height, width = (-(-side // divisor) * divisor for side in pic.shape[:2])
    padded = np.zeros((height, width, 3), np.float32)
    padded[: pic.shape[0], : pic.shape[1]] = scaled
    return np.ascontiguousarray(padded.transpose(2, 0, 1))[None]


def metas(image_shape, original_shape):
    """img_shape, ori_shape and scale_factor (w, h, w, h) as the public pipeline would state them."""
    height, width = image_shape
    original_height, original_width = original_shape
    scale = np.array([width / original_width, height / original_height] * 2, dtype=np.float32)
    return {"img_shape": (height, width, 3), "ori_shape": (original_height, original_width, 3), "scale_factor": scale}
