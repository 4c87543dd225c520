"""What the composed scenes lie on: crops of public-domain photographs, and textures made by arithmetic.

The photographs lie in scikit-image's wheel (`pip download --no-deps scikit-image==0.26.0`), which is read as the zip
file that it is; the wheel's own notes (skimage/data/_fetchers.py) say of each one used here that it is CC0 or in the
public domain. Training and test scenes share no photograph and no kind of texture.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# File in skimage/data, its sha256, its licence and its maker.
PICTURES = {
    "train": (
        ("brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", "CC0, CC0Textures"),
        ("gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", "CC0, CC0Textures"),
        ("camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", "CC0, Lav Varshney"),
        ("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", "CC0, Rachel Michetti"),
        ("retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", "CC0, Mikael Häggström"),
        ("clock_motion.png", "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955", "public domain"),
    ),
    "test": (
        ("grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", "CC0, linolafett"),
        ("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", "CC0, Stefan van der Walt"),
        ("rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c", "public domain, SpaceX"),
        ("cell.png", "8d23a7fb81f7cc877cd09f330357fc7f595651306e84e17252f6e0a1b3f61515", "CC0, Paul Müller"),
    ),
}
PHOTOGRAPHS_SHARE = 0.6  # of the scenes; the others lie on textures
MIN_CROP = 96  # pixels of a photograph that become the side of a scene, at least


def load_pictures(wheel: Path, split: str) -> list[np.ndarray]:
    """The photographs of a split, each (h, w, 3) uint8 RGB."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name, sha256, _ in PICTURES[split]:
            content = archive.read(f"skimage/data/{name}")
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{wheel}: {name} is another picture than the scenes were composed on.")
            found.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    return found


def background(rng: np.random.Generator, pictures: list[np.ndarray], split: str, side: int) -> np.ndarray:
    """One background. (side, side, 3) float32 in 0 to 255."""
    if rng.random() < PHOTOGRAPHS_SHARE:
        return _photograph(rng, pictures[rng.integers(len(pictures))], side)
    grey = TEXTURES[split][rng.integers(len(TEXTURES[split]))](rng, side)
    low, high = _colour(rng), _colour(rng)
    return low + (high - low) * grey[..., None].astype(np.float32)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour that leans to grey, as the world does. (3,) float32."""
    return np.clip(rng.uniform(10, 245) + rng.normal(0, 30, 3), 0, 255).astype(np.float32)


def _photograph(rng: np.random.Generator, picture: np.ndarray, side: int) -> np.ndarray:
    """A square crop, turned, mirrored, tinted and of other contrast."""
    crop = int(rng.integers(MIN_CROP, min(picture.shape[:2]) + 1))
    y, x = (int(rng.integers(0, length - crop + 1)) for length in picture.shape[:2])
    method = cv2.INTER_AREA if crop > side else cv2.INTER_LINEAR
    out = cv2.resize(picture[y : y + crop, x : x + crop], (side, side), interpolation=method).astype(np.float32)
    out = np.rot90(out, int(rng.integers(4)))[:, :: int(rng.choice((-1, 1)))]
    gain = rng.uniform(0.5, 1.2) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    return np.clip((out - 128) * gain + 128 + rng.uniform(-40, 40), 0, 255).astype(np.float32)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values shifted and scaled to 0 to 1."""
    return (values - values.min()) / max(float(np.ptp(values)), 1e-6)


def _clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise of three scales, the coarse ones stronger."""
    total = np.zeros((side, side), np.float32)
    for cells in (3, 9, 27):
        noise = rng.random((cells, cells), dtype=np.float32) / np.sqrt(cells)
        total += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return _stretched(total)


def _stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Parallel waves in one direction, bent by clouds."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 16)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * waves + _clouds(rng, side)
    return 0.5 + 0.5 * np.sin(2 * np.pi * phase)


def _speckle(rng: np.random.Generator, side: int) -> np.ndarray:
    """Coarse grains of two tones."""
    cells = int(rng.integers(12, 48))
    return cv2.resize((rng.random((cells, cells)) < 0.5).astype(np.float32), (side, side))


def _cells(rng: np.random.Generator, side: int) -> np.ndarray:
    """Flat cells around random points, each of its own tone (a Voronoi diagram)."""
    points, tones = rng.uniform(0, side, (int(rng.integers(8, 40)), 2)), rng.random(40)
    y, x = np.mgrid[:side, :side]
    distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return tones[distance.argmin(-1)].astype(np.float32)


def _checks(rng: np.random.Generator, side: int) -> np.ndarray:
    """A turned chessboard, its corners softened."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    angle, squares = rng.uniform(0, np.pi), rng.uniform(3, 12)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return 0.5 + 0.5 * np.tanh(4 * np.sin(np.pi * squares * u) * np.sin(np.pi * squares * v))


def _rings(rng: np.random.Generator, side: int) -> np.ndarray:
    """Waves around a point."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    centre = rng.uniform(-0.2, 1.2, 2)
    return 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(3, 14) * np.hypot(y - centre[0], x - centre[1]))


TEXTURES: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], ...]] = {
    "train": (_clouds, _stripes, _speckle),
    "test": (_cells, _checks, _rings),
}
