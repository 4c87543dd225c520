"""What one image needs of memory at an input size, and the refusal of sizes that no memory of this machine holds.

Arithmetic on the float32 reference (folded.py, ops/retention/op.py), a lower bound: weights, images and what PyTorch
keeps beside are not counted. Stages of whole attention grow with the square of their positions and give out first.
"""

import os

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.rmt import stage_grid
from rmt_edge.model.variants import VARIANTS

FLOAT32 = 4  # bytes


def image_bytes(variant_name: str, height: int, width: int) -> dict[str, int]:
    """The largest holders of memory while one height x width image goes through, with their bytes."""
    variant = VARIANTS[variant_name]
    tables = 0
    found = {}
    for index in range(4):
        h, w = stage_grid(index, height, width)
        l, n, c = h * w, variant.num_heads[index], variant.dims[index]
        tables += 2 * l * (c // n)  # sin and cos, of all stages at once
        if variant.decomposed[index]:
            scores = 2 * n * l * max(h, w)  # q·kᵀ, and that with the decay
        else:
            scores = 3 * n * l * l  # the decay, q·kᵀ, and their sum
        found[f"the attention of stage {index + 1}, {h}x{w} positions"] = FLOAT32 * scores
        # fc1's output and GELU's.
        found[f"the feed-forward of stage {index + 1}"] = FLOAT32 * 2 * l * c * variant.ffn_ratios[index]
    return found | {"the position tables": FLOAT32 * tables}


def check_memory(variant_name: str, height: int, width: int) -> None:
    """Refuse an input size of which one image needs more than all the memory of this machine."""
    what, needed = max(image_bytes(variant_name, height, width).items(), key=lambda x: x[1])
    total = machine_bytes()
    if total is not None and needed > total:
        raise RmtEdgeError(
            f"{variant_name} cannot take {height}x{width} images on this machine.",
            f"of one image the float32 reference needs {needed / 2**30:.0f} GiB for {what}; this machine "
            f"has {total / 2**30:.0f}.",
            "Choose a smaller input size.",
        )


def machine_bytes() -> int | None:
    """All of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
