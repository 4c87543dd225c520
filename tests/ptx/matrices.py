"""Tensor core instructions: which thread holds which element, and the products.

Source: PTX ISA 8.7, sections "Matrix Fragments for mma.m16n8k16", "ldmatrix", "stmatrix", and for wgmma "Asynchronous
Warpgroup Level Matrix Instructions". Products are exact in float32, their sums are rounded to float32; the order of the
sums on a GPU is not known, and its accumulation may round otherwise.
"""

import numpy as np

from tests.ptx.integers import Handler
from tests.ptx.parse import GpuError, vector_elements
from tests.ptx.shared import WARP
from tests.ptx.threads import Threads

LANE = np.arange(WARP)
GROUP, IN_GROUP = LANE // 4, LANE % 4  # the manual's groupID and threadID_in_group
WARPGROUP = 128
TILE = 8  # rows of an 8 x 8 matrix of ldmatrix, and of a core matrix of wgmma
ROW_BYTES = 16


def _halves(t: Threads, register: str, groups: tuple[int, ...]) -> np.ndarray:
    """A register of every thread as its two float16, lower first. (*groups, 32, 2), float32."""
    bits = t.read_all(register, "u4")
    return bits.view(np.float16).reshape(*groups, WARP, 2).astype(np.float32)


def _left_operand(t: Threads, operand: str, groups: tuple[int, ...]) -> np.ndarray:
    """A (16 x 16) of every warp: registers hold rows g and g + 8, then the same eight columns on."""
    matrix = np.empty((*groups, 16, 16), np.float32)
    for i, register in enumerate(vector_elements(operand)):
        values = _halves(t, register, groups)
        row, column = GROUP + 8 * (i % 2), 2 * IN_GROUP + 8 * (i // 2)
        matrix[..., row, column], matrix[..., row, column + 1] = values[..., 0], values[..., 1]
    return matrix


def multiply(t: Threads, o: tuple[str, ...]) -> None:
    """mma.sync m16n8k16: D = A·B + C of every warp. A 16 x 16 by rows, B 16 x 8 by columns, C and D float32."""
    t.need_all()
    warps = t.count // WARP
    left = _left_operand(t, o[1], (warps,))
    right = np.empty((warps, 16, 8), np.float32)
    for i, register in enumerate(vector_elements(o[2])):
        values = _halves(t, register, (warps,))
        row = 2 * IN_GROUP + 8 * i
        right[:, row, GROUP], right[:, row + 1, GROUP] = values[..., 0], values[..., 1]
    product = left @ right  # (warps, 16, 8)
    results = []
    for i, register in enumerate(vector_elements(o[3])):
        part = product[:, GROUP + 8 * (i // 2), 2 * IN_GROUP + i % 2].reshape(-1)
        results.append(part + t.read(register, "f4"))
    for register, result in zip(vector_elements(o[0]), results, strict=True):
        t.write(register, result)


def multiply_eight(t: Threads, o: tuple[str, ...]) -> None:
    """mma.sync m16n8k8: the same with 8 columns of A and rows of B; A's registers hold the rows g and g + 8."""
    t.need_all()
    warps = t.count // WARP
    left, right = np.empty((warps, 16, 8), np.float32), np.empty((warps, 8, 8), np.float32)
    for i, register in enumerate(vector_elements(o[1])):
        values = _halves(t, register, (warps,))
        left[:, GROUP + 8 * i, 2 * IN_GROUP], left[:, GROUP + 8 * i, 2 * IN_GROUP + 1] = values[..., 0], values[..., 1]
    (register,) = vector_elements(o[2])
    values = _halves(t, register, (warps,))
    right[:, 2 * IN_GROUP, GROUP], right[:, 2 * IN_GROUP + 1, GROUP] = values[..., 0], values[..., 1]
    product = left @ right  # (warps, 16, 8)
    results = []
    for i, register in enumerate(vector_elements(o[3])):
        part = product[:, GROUP + 8 * (i // 2), 2 * IN_GROUP + i % 2].reshape(-1)
        results.append(part + t.read(register, "f4"))
    for register, result in zip(vector_elements(o[0]), results, strict=True):
        t.write(register, result)


def _row_addresses(t: Threads, operand: str) -> np.ndarray:
    """Lane 8·i + r names row r of matrix i. (warps, 32)."""
    return t.shared_address(operand).reshape(-1, WARP)


def load_matrices(is_transposed: bool) -> Handler:
    """ldmatrix m8n8.x4: four 8 x 8 matrices of 16-bit elements, one register of each thread for each."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        t.need_all()
        rows = _row_addresses(t, o[1])
        lanes = t.lanes
        # Every lane reads the row that it names; then the elements are dealt out.
        got = t.shared.read(rows.reshape(-1), lanes, ROW_BYTES, t.text)
        matrices = got.view(np.uint16).reshape(-1, 4, TILE, TILE)  # (warps, matrix, row, column)
        if is_transposed:
            matrices = matrices.swapaxes(2, 3)
        for i, register in enumerate(vector_elements(o[0])):
            pairs = np.stack([matrices[:, i, GROUP, 2 * IN_GROUP + half] for half in range(2)], -1)
            t.write(register, np.ascontiguousarray(pairs).view(np.uint32).reshape(-1))

    return run


def store_matrices(t: Threads, o: tuple[str, ...]) -> None:
    """stmatrix m8n8.x4: ldmatrix the other way round."""
    t.need_all()
    rows = _row_addresses(t, o[0])
    matrices = np.empty((len(rows), 4, TILE, TILE), np.uint16)
    for i, register in enumerate(vector_elements(o[1])):
        pairs = t.read_all(register, "u4").view(np.uint16).reshape(-1, WARP, 2)
        for half in range(2):
            matrices[:, i, GROUP, 2 * IN_GROUP + half] = pairs[..., half]
    t.shared.write(rows.reshape(-1), t.lanes, matrices.reshape(-1).view(np.complex128), t.text)


def multiply_asynchronously(columns: int) -> Handler:
    """wgmma.mma_async m64nNk16: D = A·B (+ D) of four warps. A 64 x 16 in registers, B 16 x N in shared memory."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        t.need_all()
        groups = t.count // WARPGROUP
        if [int(t.read(x, "i4")[0]) for x in o[4:6]] != [1, 1]:
            raise GpuError(f"scales other than 1: {t.text}")
        is_transposed = t.read(o[6], "u4")[0] != 0
        right = _described_operand(t, o[2], columns, is_transposed)
        left = _left_operand(t, o[1], (groups, 4))
        product = left @ right[:, None]  # (groups, 4, 16, columns)
        is_added = t.read(o[3], "?")
        t.unfinished -= set(vector_elements(o[0]))  # one wgmma may add to what another has not finished
        for i, register in enumerate(vector_elements(o[0])):
            tile, part = divmod(i, 4)
            value = product[:, :, GROUP + 8 * (part // 2), TILE * tile + 2 * IN_GROUP + part % 2].reshape(-1)
            if is_added.any():
                value = value + np.where(is_added, t.read(register, "f4"), np.float32(0))
            t.write(register, value)
        t.unfinished |= set(vector_elements(o[0]))

    return run


def _described_operand(t: Threads, operand: str, columns: int, is_transposed: bool) -> np.ndarray:
    """B of every warpgroup, from its matrix descriptor. (groups, 16, columns), float32.

    Descriptor: bits 0-13 address, 16-29 leading and 32-45 stride byte offset, each over 16; 62-63 the swizzle: 1, 2, 3
    for 128, 64, 32 bytes. Eight rows of that many bytes are one tile; the 16-byte pieces of a row are exchanged by the
    exclusive or of their number and that of the row. K runs along a row unless the operand is transposed.
    """
    descriptors = t.same_in_warps(operand, "u8", WARPGROUP)
    k, n = np.meshgrid(np.arange(16), np.arange(columns), indexing="ij")
    result = np.empty((len(descriptors), 16, columns), np.float32)
    for group, descriptor in enumerate(map(int, descriptors)):
        start, leading, stride = (((descriptor >> bit) & 0x3FFF) << 4 for bit in (0, 16, 32))
        if descriptor >> 62 == 0 or descriptor >> 49 & 7:
            raise GpuError(f"a matrix descriptor without swizzle, or with a base offset: {t.text}")
        row_bytes = {1: 128, 2: 64, 3: 32}[descriptor >> 62]
        if is_transposed:
            per_row = row_bytes // 2
            at = start + k // TILE * stride + k % TILE * row_bytes + n % per_row * 2 + n // per_row * leading
        else:
            at = start + n // TILE * stride + n % TILE * row_bytes + k * 2
        at = at ^ (at >> 7 & row_bytes // ROW_BYTES - 1) << 4
        result[group] = t.shared.read_matrix(at, group * WARPGROUP, t.text)
    return result


def matrix_fence(t: Threads, o: tuple[str, ...]) -> None:
    """wgmma.fence: registers written before are seen by the wgmma behind it."""
    t.need_all()


def commit_matrices(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()


def wait_for_matrices(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    if t.read(o[0], "u4")[0] != 0:
        raise GpuError(f"a wait that leaves some wgmma unfinished: {t.text}")
    t.unfinished.clear()
    t.shared.matrices_done()


_WGMMA = "wgmma.mma_async.sync.aligned.m64n{}k16.f32.f16.f16"
INSTRUCTIONS: dict[str, Handler] = {
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": multiply,
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32": multiply_eight,
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16": load_matrices(False),
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": load_matrices(True),
    "stmatrix.sync.aligned.m8n8.x4.shared.b16": store_matrices,
    **{_WGMMA.format(n): multiply_asynchronously(n) for n in (16, 32, 64)},
    "wgmma.fence.sync.aligned": matrix_fence, "wgmma.commit_group.sync.aligned": commit_matrices,
    "wgmma.wait_group.sync.aligned": wait_for_matrices,
}  # fmt: skip
