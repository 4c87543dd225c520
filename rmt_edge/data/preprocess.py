"""What an image goes through before the network: the geometry and pixel scaling that a checkpoint was trained with.

One definition for the checkpoint, the quantised model and every engine. numpy only, so that a device can import it;
decoding and resizing of files is in data/dataset.py.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.task import Frame

MIN_SIDE = 32  # an RMT halves the image five times
# Pixels that go through a network at once: 64 images of 224x224. RMT-L takes 33 MiB for each in float32 (the peak of 10
# images less that of 2, PyTorch on a CPU): 2 GiB. At 224x224 and below, batches of up to 64 stay as they are.
PIXELS_AT_A_TIME = 64 * 224 * 224


def check_input_size(height: int, width: int) -> None:
    """Refuse an image too small for five halvings; any larger size works, divisible by 32 or not."""
    if min(height, width) < MIN_SIDE:
        raise RmtEdgeError(
            f"An RMT cannot take {height}x{width} images.",
            f"each side must be at least {MIN_SIDE} pixels; it need not be divisible by {MIN_SIDE}.",
            "Choose a larger input size.",
        )


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, scale.

    Resize (bicubic, keeping the aspect) until height/crop_ratio x width/crop_ratio is covered; crop the centre. A pixel
    value p of 0 to 255 becomes (p/255 - mean)/std, per RGB channel. The defaults are those of the public evaluation of
    RMT on ImageNet: the shorter side to 256, centre 224x224, ImageNet's mean and deviation.

    With `within`, a detector's or segmenter's: nothing is cropped, crop_ratio means nothing. The picture keeps its
    aspect and is resized until its longer side is within[0] or its shorter one within[1] (COCO's public 1333, 800), but
    no larger than height x width; bilinear on whole numbers as OpenCV has it. It lies at the top left, and what is
    beside it is zero after the scaling.
    """

    height: int = 224
    width: int = 224
    crop_ratio: float = 0.875
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    within: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_input_size(self.height, self.width)
        if not 0 < self.crop_ratio <= 1:
            raise RmtEdgeError(f"crop_ratio is {self.crop_ratio}.", "it lies above 0 and not above 1.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(x) for x in values):
                raise RmtEdgeError(f"{name} is {values}.", "it holds one finite number for each of R, G and B.")
            object.__setattr__(self, name, tuple(float(x) for x in values))
        if self.within is not None:
            sides = tuple(self.within)
            if len(sides) != 2 or not all(type(x) is int and x >= 1 for x in sides) or sides[0] < sides[1]:
                raise RmtEdgeError(f"within is {self.within}.", "it is the longest and the shortest side, in pixels.")
            object.__setattr__(self, "within", sides)
        if min(self.std) <= 0:
            raise RmtEdgeError(f"std is {self.std}.", "each deviation is above 0.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """From a manifest or a TOML table; an unknown key is an error."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise RmtEdgeError(
                f"Unknown preprocessing {', '.join(sorted(unknown))}.",
                f"known: {', '.join(cls.__dataclass_fields__)}.",
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it: JSON has lists, no tuples. A classifier's has no `within`."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        del values["within"]
        return values if self.within is None else values | {"within": list(self.within)}

    def frame(self, height: int, width: int) -> Frame:
        """Where a picture of that size lies in the network's input; of `within` alone.

        Sides are rounded as mmcv's rescale_size has it (mmcv/image/geometric.py).
        """
        assert self.within is not None
        longest, shortest = self.within
        factor = min(longest / max(height, width), shortest / min(height, width))
        factor = min(factor, self.height / height, self.width / width)
        sides = (int(x * factor + 0.5) for x in (height, width))
        return Frame(
            height, width, *(max(1, min(x, most)) for x, most in zip(sides, (self.height, self.width), strict=True))
        )


def images_at_a_time(preprocessing: Preprocessing, most: int, pixels: int = PIXELS_AT_A_TIME) -> int:
    """How many images go through a network at once: `most`, or as many as have that many pixels, but at least one."""
    return max(1, min(most, pixels // (preprocessing.height * preprocessing.width)))


def normalise(images: np.ndarray, preprocessing: Preprocessing, frames: Sequence[Frame] = ()) -> np.ndarray:
    """Pixels of the right size to network input. (b, h, w, 3) uint8 -> (b, 3, h, w) float32.

    frames: where each picture lies, with `within`; what is beside it becomes zero.
    """
    mean = np.asarray(preprocessing.mean, np.float32) * 255
    std = np.asarray(preprocessing.std, np.float32) * 255
    inputs = np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2), dtype=np.float32)
    for i, frame in enumerate(frames):
        inputs[i, :, frame.height :] = 0
        inputs[i, :, :, frame.width :] = 0
    return inputs
