"""Scenes of real Fashion-MNIST items, composed: pictures with boxes, instance masks and a label for every pixel.

Items (Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence) are cut out along their own outline, enlarged 1 to 4 times,
tinted and laid over one another on the backgrounds of backgrounds.py, among things that are no items. What an item is
known by is what can be seen of it: its mask is its outline less what covers it, its box the mask's. Scene number i of a
split depends on the seed, the split and i alone, so that any scene can be made again by itself.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scenes.backgrounds import background, load_pictures

from rmt_edge.data.dataset import open_dataset

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SIDE = 128
SEED = 20261124
HELD_OUT_ITEMS = 5_000  # the last training items make the held-out scenes, which choices are made on
MAX_ITEMS = 6
ENLARGEMENT = (1.0, 4.0)
# An item stays at least this visible, so that no scene shows one that its annotations leave out.
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.4, 40
TRIES = 12  # places tried for an item before it is left out
# Grey values of 1 to 8 are dirt around an item rather than the item: an outline of all above 0 is frayed. Of the first
# 10,000 training items 16, dark all over, lose more than 40 % of their area by it. Parts of fewer pixels are dirt too.
OUTLINE_GREY, SPECK_PIXELS = 8, 8
# Splits: whose items, which backgrounds, and the number that goes into the seed.
SPLITS = {"train": ("train", 1), "calibration": ("train", 2), "held_out": ("train", 3), "test": ("test", 4)}


@dataclass(frozen=True)
class Scene:
    """image: (h, w, 3) uint8 RGB; labels: (k,) 0 to 9; masks: (k, h, w) bool, disjoint; items: (k,), their numbers."""

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    items: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """Left, top, right, bottom of what is seen, right and bottom outside. (k, 4) float32."""
        return np.array([box_of(mask) for mask in self.masks], np.float32).reshape(-1, 4)

    @property
    def semantic(self) -> np.ndarray:
        """The class of every pixel, len(CLASSES) where none is. (h, w) uint8."""
        out = np.full(self.image.shape[:2], len(CLASSES), np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            out[mask] = label
        return out


def box_of(mask: np.ndarray) -> np.ndarray:
    """The tight box around a mask: left, top, right, bottom. (4,) float32."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), np.float32)


def outline(item: np.ndarray) -> np.ndarray:
    """Where an item is: grey above OUTLINE_GREY and the holes within, less specks. (28, 28) uint8 -> (28, 28) bool."""
    padded = np.pad((item > OUTLINE_GREY).astype(np.uint8), 1)
    cv2.floodFill(padded, None, (0, 0), 2)  # from the corner: what is neither item nor hole
    filled = (padded[1:-1, 1:-1] != 2).astype(np.uint8)
    _, parts, numbers, _ = cv2.connectedComponentsWithStats(filled, connectivity=4)
    is_kept = numbers[:, cv2.CC_STAT_AREA] >= SPECK_PIXELS
    is_kept[0] = False  # part 0 is what lies outside
    return is_kept[parts]


class _Canvas:
    """The picture so far and what can still be seen of each item. image: (h, w, 3) float32, painted in place."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.masks: list[np.ndarray] = []
        self.areas: list[int] = []  # of each mask before anything covered it

    def lay(self, patch: np.ndarray, cover: np.ndarray, y: int, x: int, is_item: bool) -> bool:
        """Paint a patch whose upper left corner is at (y, x), unless it hides an item too much. Was it painted?

        patch: (h, w, 3); cover: (h, w), how much of each pixel the patch takes, 0 to 1. Parts may lie outside.
        """
        side_y, side_x = self.image.shape[:2]
        inside = slice(max(y, 0), min(y + len(cover), side_y)), slice(max(x, 0), min(x + cover.shape[1], side_x))
        part = tuple(slice(s.start - start, s.stop - start) for s, start in zip(inside, (y, x), strict=True))
        covered = np.zeros((side_y, side_x), bool)
        covered[inside] = cover[part] >= 0.5
        rest = [mask & ~covered for mask in self.masks]
        for mask, area in zip(rest, self.areas, strict=True):
            if mask.sum() < max(MIN_VISIBLE_SHARE * area, MIN_VISIBLE_PIXELS):
                return False
        if is_item and covered.sum() < MIN_VISIBLE_PIXELS:
            return False
        share = cover[part][..., None]
        self.image[inside] = self.image[inside] * (1 - share) + patch[part] * share
        self.masks = rest
        if is_item:
            self.masks.append(covered)
            self.areas.append(int(covered.sum()))
        return True


@dataclass(frozen=True)
class Composer:
    """Makes the scenes of one split, a name in SPLITS. grey: (n, 28, 28) uint8, and labels: (n,), of all items of the
    split's source; pool: (m,), which of them are used; pictures: the photographs, of any size; side: of a scene."""

    split: str
    grey: np.ndarray
    labels: np.ndarray
    pool: np.ndarray
    pictures: list[np.ndarray]
    side: int = SIDE

    def scene(self, index: int) -> Scene:
        """Scene number `index`."""
        source, number = SPLITS[self.split]
        rng = np.random.default_rng([SEED, number, index])
        canvas = _Canvas(background(rng, self.pictures, source, self.side))
        for _ in range(rng.integers(0, 5)):
            canvas.lay(*self._distractor(rng), is_item=False)
        kept = []
        for item in rng.choice(self.pool, rng.integers(1, MAX_ITEMS + 1), replace=False):
            patch, cover = self._cut_out(rng, item)
            for _ in range(TRIES):
                # Up to a quarter of an item may lie outside the picture.
                y, x = (round(rng.uniform(-l / 4, self.side - 3 * l / 4)) for l in cover.shape)
                if canvas.lay(patch, cover, y, x, is_item=True):
                    kept.append(item)
                    break
            if rng.random() < 0.15:  # something that lies above the items so far
                canvas.lay(*self._distractor(rng), is_item=False)
        image = canvas.image
        if rng.random() < 0.25:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
        image = image + rng.normal(0, rng.uniform(0, 12), image.shape).astype(np.float32)
        pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
        masks = np.stack(canvas.masks) if kept else np.zeros((0, self.side, self.side), bool)
        items = np.array(kept, np.int64)
        return Scene(pixels, self.labels[items].astype(np.int64), masks, items)

    def _cut_out(self, rng: np.random.Generator, item: int) -> tuple[np.ndarray, np.ndarray]:
        """An item enlarged, mirrored and tinted, and how much of each pixel it covers. (h, w, 3), (h, w) float32."""
        mask = outline(self.grey[item])
        left, top, right, bottom = box_of(mask).astype(int)
        scale = np.exp(rng.uniform(*np.log(ENLARGEMENT)))
        size = tuple(max(4, round(x * scale)) for x in (right - left, bottom - top))
        flip = int(rng.choice((-1, 1)))
        grey, cover = (
            cv2.resize(x[top:bottom, left:right].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[:, ::flip]
            for x in (self.grey[item], mask)
        )
        low = rng.uniform(0, 90) + rng.normal(0, 12, 3)
        high = low + rng.uniform(70, 250) * rng.uniform(0.75, 1.1, 3)
        if rng.random() < 0.2:
            low, high = high, low
        return (low + (high - low) * grey[..., None] / 255).clip(0, 255).astype(np.float32), cover

    def _distractor(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Something that is no item: a shape of one colour, or an item whose sixteenths are shuffled, and its place."""
        h, w = (int(x) for x in rng.integers(8, self.side // 3, 2))
        if rng.random() < 0.3:
            blocks = self.grey[rng.choice(self.pool)].reshape(4, 7, 4, 7).swapaxes(1, 2).reshape(16, 7, 7)
            mixed = rng.permutation(blocks).reshape(4, 4, 7, 7).swapaxes(1, 2).reshape(28, 28)
            patch = cv2.resize(mixed, (w, h)).astype(np.float32)[..., None].repeat(3, -1) * rng.uniform(0.4, 1)
            cover = np.ones((h, w), np.float32)
        else:
            patch = np.full((h, w, 3), rng.uniform(0, 255, 3), np.float32) + rng.normal(0, 8, (h, w, 1))
            cover = np.zeros((h, w), np.float32)
            kind = rng.integers(3)
            if kind == 0:
                cv2.ellipse(cover, (w // 2, h // 2), (w // 2, h // 2), rng.uniform(0, 180), 0, 360, 1.0, -1)
            elif kind == 1:
                cv2.fillPoly(cover, [(rng.random((int(rng.integers(3, 6)), 2)) * (w, h)).astype(np.int32)], 1.0)
            else:
                ends = [tuple(int(x) for x in rng.random(2) * (w, h)) for _ in range(2)]
                cv2.line(cover, ends[0], ends[1], 1.0, int(rng.integers(1, 5)))
        y, x = (int(x) for x in rng.integers(-4, self.side - 4, 2))
        return patch.astype(np.float32), cover, y, x


def open_composer(data: Path, wheel: Path, split: str) -> Composer:
    """The composer of a split. data: the folder of Debian's dataset-fashion-mnist; wheel: scikit-image's."""
    source, _ = SPLITS[split]
    dataset = open_dataset(data / f"{'t10k' if source == 'test' else 'train'}-images-idx3-ubyte.gz")
    grey = np.stack([np.asarray(dataset.read(number)) for number in range(len(dataset))])
    return Composer(split, grey, np.asarray(dataset.labels), pool_of(split, len(dataset)), load_pictures(wheel, source))


def pool_of(split: str, items: int) -> np.ndarray:
    """Which items of its source a split uses: the last training items are the held-out scenes' alone."""
    if split == "held_out":
        return np.arange(items - HELD_OUT_ITEMS, items)
    return np.arange(items if split == "test" else items - HELD_OUT_ITEMS)
