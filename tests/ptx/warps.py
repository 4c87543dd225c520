"""What threads do together: exchange registers within a warp, wait for each other.

Source: PTX ISA 8.7, sections "shfl.sync", "bar", "bar.warp.sync", "membar/fence".
"""

import numpy as np

from tests.ptx.integers import Handler
from tests.ptx.parse import GpuError
from tests.ptx.shared import WARP
from tests.ptx.threads import Threads

EVERY_LANE = 0xFFFFFFFF


def shuffle(mode: str) -> Handler:
    """shfl.sync.mode.b32 d, a, b, c, members. c: the last lane in bits 0-4, in bits 8-12 what divides the warp."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        t.need_all()
        if (t.read(o[4], "u4") != EVERY_LANE).any():
            raise GpuError(f"a shuffle without all lanes: {t.text}")
        value, by = (t.read_all(x, "u4").reshape(-1, WARP) for x in o[1:3])
        clamp_and_mask = t.read_all(o[3], "u4").reshape(-1, WARP).astype(np.int64)
        clamp, segment = clamp_and_mask & 31, clamp_and_mask >> 8 & 31
        lane = np.arange(WARP)
        last, first = (lane & segment) | (clamp & ~segment), lane & segment
        by = by.astype(np.int64) & 31
        source = {"bfly": lane ^ by, "idx": first | (by & ~segment)}[mode]
        source = np.where(source <= last, source, lane)
        t.write(o[0], np.take_along_axis(value, source, 1).reshape(-1))

    return run


def barrier(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    if t.read(o[0], "u4")[0] != 0 or len(o) > 1:
        raise GpuError(f"a barrier other than 0, or of some threads only: {t.text}")
    t.shared.barrier()


def warp_barrier(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    if (t.read(o[0], "u4") != EVERY_LANE).any():
        raise GpuError(f"a warp barrier without all lanes: {t.text}")
    t.shared.warp_barrier()


def proxy_fence(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    t.shared.proxy_fence()


INSTRUCTIONS: dict[str, Handler] = {
    "shfl.sync.bfly.b32": shuffle("bfly"), "shfl.sync.idx.b32": shuffle("idx"),
    "bar.sync": barrier, "bar.warp.sync": warp_barrier, "fence.proxy.async.shared::cta": proxy_fence,
}  # fmt: skip
