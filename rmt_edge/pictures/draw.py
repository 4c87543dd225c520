"""Pictures with what was found in them: boxes, masks, label maps, names."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rmt_edge.tasks.masks import Crop

MASK_OPACITY = 0.45
MAP_OPACITY = 0.55
GOLDEN_ANGLE = 0.381966  # of a turn: hues of neighbouring class numbers lie far apart


def colour_of(label: int) -> tuple[int, int, int]:
    """A class's colour, always the same."""
    red, green, blue = colorsys.hsv_to_rgb((label * GOLDEN_ANGLE) % 1.0, 0.85, (0.95, 0.75)[label % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def with_objects(
    image: Image.Image, boxes: np.ndarray, labels: Sequence[int], captions: Sequence[str], masks: Sequence[Crop] = ()
) -> Image.Image:
    """Boxes x1 y1 x2 y2 with their captions, over their masks where there are any. The best come on top."""
    pixels = np.asarray(image.convert("RGB"), np.float32).copy()
    for crop, label in zip(reversed(masks), reversed(labels[: len(masks)]), strict=True):
        top, left = crop.top, crop.left
        part = pixels[top : top + crop.inside.shape[0], left : left + crop.inside.shape[1]]
        part[crop.inside] = (1 - MASK_OPACITY) * part[crop.inside] + MASK_OPACITY * np.array(colour_of(label))
    drawn = Image.fromarray(np.rint(pixels).astype(np.uint8))
    draw, font = ImageDraw.Draw(drawn), _font(drawn)
    line = max(1, round(max(drawn.size) / 400))
    for box, label, caption in reversed(list(zip(boxes.tolist(), labels, captions, strict=True))):
        left, top, right, bottom = box
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour_of(label), width=line)
        _write(draw, (box[0], box[1]), caption, font, colour_of(label), drawn.size)
    return drawn


def with_labels(image: Image.Image, labels: np.ndarray) -> Image.Image:
    """A label map (h, w) over its picture."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    colours = np.array([colour_of(x) for x in range(int(labels.max()) + 1)], np.float32)
    mixed = (1 - MAP_OPACITY) * pixels + MAP_OPACITY * colours[labels.astype(np.int64)]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def with_lines(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Lines of text at the top left."""
    drawn = image.convert("RGB")
    draw, font = ImageDraw.Draw(drawn), _font(drawn)
    height = sum(font.getmetrics()) + 2
    for i, line in enumerate(lines):
        _write(draw, (0, height * (i + 1)), line, font, (30, 30, 30), drawn.size)
    return drawn


def _font(image: Image.Image) -> Any:
    return ImageFont.load_default(size=max(10, round(max(image.size) / 55)))


def _write(
    draw: Any, corner: tuple[float, float], text: str, font: Any, colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """White on the colour, above the corner where there is room, and within the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = max(0, min(y, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=(255, 255, 255), font=font)
