"""Addresses of tensors that no host could hold: some blocks of huge launches, on memory that checks addresses alone."""

import ctypes

import pytest

from tests.ptx.device import STREAM
from tests.ptx.memory import READ, WRITE, AddressMemory
from tests.ptx.parse import GpuError

HALF, FLOAT = 2, 4  # bytes
FP16 = 1  # RMT_EDGE_FLOAT16
LEPE_TAPS, CONV_TAPS = 25, 9
FAR = 1 << 40  # tensors lie so far apart


@pytest.fixture
def launch(device, monkeypatch):
    """A function that calls a C entry point with far tensors: name -> (bytes, access) or None, in argument order."""

    def call(function, sizes, *arguments):
        first = {name: FAR * (i + 1) if size else None for i, (name, size) in enumerate(sizes.items())}
        memory = AddressMemory({name: (first[name], *size) for name, size in sizes.items() if size})
        monkeypatch.setattr(device, "memory", memory)
        pointers = [ctypes.c_void_p(x) for x in first.values()]
        status = getattr(device.library, function)(*pointers, *arguments, ctypes.c_void_p(STREAM))
        device.raise_error()
        assert status == 0, device.last_error()
        return memory

    return call


def launch_retention(launch, shape, decomposed, tactic, images=0):
    """images: how many of the batch the tensors really have, if not all."""
    b, h, w, n, d = shape
    c, l, b_held = n * d, h * w, images or b
    sizes = {
        "qkv": (b_held * l * 3 * c * HALF, READ), "sin": (l * d * HALF, READ), "cos": (l * d * HALF, READ),
        "lepe_weight": (c * LEPE_TAPS * HALF, READ), "lepe_bias": (c * HALF, READ), "decay": (n * FLOAT, READ),
        "qkv_scale": None, "qkv_bias": None,
        "out": (b_held * l * c * HALF, WRITE), "workspace": (b_held * l * c * HALF, READ | WRITE),
    }  # fmt: skip
    numbers = (b, h, w, n, d, int(decomposed), FP16, ctypes.c_float(0), ctypes.c_float(0), tactic)
    return launch("rmt_retention_launch", sizes, *numbers), sizes


# Batch, grid, heads, head dim. qkv of up to 29 GB; the last but one is just below 2^31 elements an image.
RETENTION = [((256, 56, 56, 4, 16), True, 3), ((32, 200, 336, 7, 16), True, 3), ((20000, 28, 28, 4, 32), True, 2),
             ((3, 2000, 2000, 5, 32), True, 3), ((256, 25, 42, 20, 32), False, 3),
             ((256, 56, 56, 4, 16), True, 6), ((20000, 14, 14, 8, 32), True, 7),
             ((4000, 7, 7, 16, 32), False, 6)]  # fmt: skip


@pytest.mark.parametrize("shape, decomposed, tactic", RETENTION, ids=str)
def test_retention_stays_within_huge_tensors_and_reaches_their_ends(launch, shape, decomposed, tactic):
    memory, sizes = launch_retention(launch, shape, decomposed, tactic)
    assert memory.seen["qkv"][1] == sizes["qkv"][0]
    assert memory.seen["out"] == (0, sizes["out"][0])


# Batch, grid, channels; whether there is a residual, and a norm.
DEPTHWISE = [((256, 56, 56, 256), False, False), ((65535, 14, 14, 768), True, False), ((64, 200, 336, 448), True, True),
             ((2, 1024, 1024, 1024), False, True)]  # fmt: skip


@pytest.mark.parametrize("shape, has_residual, has_norm", DEPTHWISE, ids=str)
def test_depthwise_stays_within_huge_tensors_and_reaches_their_ends(launch, shape, has_residual, has_norm):
    b, h, w, c = shape
    whole, row = b * h * w * c * HALF, (c * HALF, READ)
    sizes = {
        "x": (whole, READ), "weight": (CONV_TAPS * c * HALF, READ), "bias": row,
        "residual": (whole, READ) if has_residual else None, "norm_weight": row if has_norm else None,
        "norm_bias": row if has_norm else None, "out": (whole, WRITE), "norm": (whole, WRITE) if has_norm else None,
    }  # fmt: skip
    numbers = (b, h, w, c, FP16, ctypes.c_float(1e-6), ctypes.c_float(0), 0)
    memory = launch("rmt_depthwise_residual_launch", sizes, *numbers)
    for name in ("x", "out"):
        assert memory.seen[name] == (0, whole)


def test_a_tensor_one_image_short_is_seen(launch):
    with pytest.raises(GpuError, match="lies in no tensor"):
        launch_retention(launch, (256, 56, 56, 4, 16), True, 3, images=255)
