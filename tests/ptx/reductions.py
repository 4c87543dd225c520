"""What a warp does together beyond shuffles: a sum over its lanes, one 8 x 8 matrix from shared memory.

Source: PTX ISA 8.7, sections "redux.sync", "ldmatrix".
"""

import numpy as np

from tests.ptx.integers import Handler
from tests.ptx.matrices import GROUP, IN_GROUP, ROW_BYTES, TILE
from tests.ptx.parse import GpuError, vector_elements
from tests.ptx.shared import WARP
from tests.ptx.threads import Threads
from tests.ptx.warps import EVERY_LANE


def sum_over_warp(t: Threads, o: tuple[str, ...]) -> None:
    """redux.sync.add.s32 d, a, members: every lane gets the sum of a over the warp, which wraps around."""
    t.need_all()
    if (t.read(o[2], "u4") != EVERY_LANE).any():
        raise GpuError(f"a reduction without all lanes: {t.text}")
    totals = t.read_all(o[1], "i4").reshape(-1, WARP).sum(1, dtype=np.int64).astype(np.int32)
    t.write(o[0], np.repeat(totals, WARP))


def load_matrix(t: Threads, o: tuple[str, ...]) -> None:
    """ldmatrix m8n8.x1: one 8 x 8 matrix of 16-bit elements, of which lanes 0 to 7 name the rows."""
    t.need_all()
    rows = t.lanes[t.lanes % WARP < TILE]
    got = t.shared.read(t.shared_address(o[1])[rows], rows, ROW_BYTES, t.text)
    matrix = got.view(np.uint16).reshape(-1, TILE, TILE)  # (warps, row, column)
    pairs = np.stack([matrix[:, GROUP, 2 * IN_GROUP + half] for half in range(2)], -1)
    (register,) = vector_elements(o[0])
    t.write(register, np.ascontiguousarray(pairs).view(np.uint32).reshape(-1))


INSTRUCTIONS: dict[str, Handler] = {
    "redux.sync.add.s32": sum_over_warp, "ldmatrix.sync.aligned.m8n8.x1.shared.b16": load_matrix,
}  # fmt: skip
