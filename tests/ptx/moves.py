"""Loads, stores and asynchronous copies.

Source: PTX ISA 8.7, section "Data Movement and Conversion Instructions": ld, st, cp.async. A vector access is aligned
to its whole size.
"""

import numpy as np

from tests.ptx.integers import Handler
from tests.ptx.memory import CARRIERS
from tests.ptx.parse import GpuError, address_parts, vector_elements
from tests.ptx.threads import Threads

COPY_BYTES = 16  # of cp.async.cg


def load_parameter(width: int) -> Handler:
    def run(t: Threads, o: tuple[str, ...]) -> None:
        name, offset = address_parts(o[1])
        raw = t.parameters[name][offset : offset + width]
        if len(raw) != width:
            raise GpuError(f"a read beyond the parameter: {t.text}")
        t.write(o[0], np.frombuffer(raw, f"u{width}"))

    return run


def load(space: str, dtype: str, count: int) -> Handler:
    width = np.dtype(dtype).itemsize

    def run(t: Threads, o: tuple[str, ...]) -> None:
        lanes = t.lanes
        if space == "global":
            address = t.global_address(o[1])
            if len(address) > 1 or t.mask is not None:
                address = np.broadcast_to(address, t.count)[lanes]
            got = t.memory.read(address, width * count, t.text)
        else:
            got = t.shared.read(t.shared_address(o[1])[lanes], lanes, width * count, t.text)
        pieces = got.view(dtype).reshape(-1, count)
        for i, register in enumerate(vector_elements(o[0])):
            wide = pieces[:, i] if register == "_" else pieces[:, i].astype(f"u{t.size_of(register)}")
            if len(wide) == 1:
                t.write(register, wide)  # one address for all threads
            else:
                t.write_lanes(register, wide, lanes)

    return run


def store(space: str, dtype: str, count: int) -> Handler:
    width = np.dtype(dtype).itemsize

    def run(t: Threads, o: tuple[str, ...]) -> None:
        lanes = t.lanes
        pieces = np.empty((len(lanes), count), dtype)
        for i, register in enumerate(vector_elements(o[1])):
            # A byte is stored from the low end of a 16-bit register.
            pieces[:, i] = t.read_all(register, f"u{max(width, 2)}")[lanes].astype(dtype)
        values = pieces.reshape(-1).view(CARRIERS[width * count])
        if space == "global":
            t.memory.write(np.broadcast_to(t.global_address(o[0]), t.count)[lanes], values, t.text)
        else:
            t.shared.write(t.shared_address(o[0])[lanes], lanes, values, t.text)

    return run


def copy_asynchronously(t: Threads, o: tuple[str, ...]) -> None:
    """cp.async.cg.shared.global [to], [from], 16, size: `size` bytes, zeros for the rest."""
    if t.read(o[2], "u4")[0] != COPY_BYTES:
        raise GpuError(f"a copy of another size than {COPY_BYTES}: {t.text}")
    lanes = t.lanes
    size = t.read_all(o[3], "u4")[lanes] if len(o) > 3 else np.full(len(lanes), COPY_BYTES, np.uint32)
    if not np.isin(size, (0, COPY_BYTES)).all():
        raise GpuError(f"a copy that is filled up in part: {t.text}")
    source = np.broadcast_to(t.global_address(o[1]), t.count)[lanes]
    values = np.zeros(len(lanes), CARRIERS[COPY_BYTES])
    is_read = size == COPY_BYTES
    values[is_read] = t.memory.read(source[is_read], COPY_BYTES, t.text)
    t.shared.copy_later(t.shared_address(o[0])[lanes], lanes, values, t.text)


def commit_copies(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    t.shared.commit_copies()


def wait_for_copies(t: Threads, o: tuple[str, ...]) -> None:
    t.need_all()
    t.shared.wait_for_copies(int(t.read(o[0], "u4")[0]), t.text)


INSTRUCTIONS: dict[str, Handler] = {
    "ld.param.b32": load_parameter(4), "ld.param.b64": load_parameter(8),
    "ld.param.u32": load_parameter(4), "ld.param.f32": load_parameter(4), "ld.param.u64": load_parameter(8),
    "ld.global.f32": load("global", "u4", 1), "ld.global.v2.b32": load("global", "u4", 2),
    "ld.global.nc.b16": load("global", "u2", 1), "ld.global.nc.b32": load("global", "u4", 1),
    "ld.global.nc.v2.b32": load("global", "u4", 2), "ld.global.nc.v4.b32": load("global", "u4", 4),
    "st.global.b16": store("global", "u2", 1), "st.global.b32": store("global", "u4", 1),
    "ld.shared.v4.u32": load("shared", "u4", 4), "st.shared.v4.u32": store("shared", "u4", 4),
    "ld.global.b16": load("global", "u2", 1), "ld.global.b32": load("global", "u4", 1),
    "ld.global.v4.b32": load("global", "u4", 4),
    "st.global.v2.b32": store("global", "u4", 2), "st.global.v4.b32": store("global", "u4", 4),
    "ld.shared.b32": load("shared", "u4", 1), "ld.shared.v2.b32": load("shared", "u4", 2),
    "ld.shared.v4.b32": load("shared", "u4", 4), "ld.shared.v4.b16": load("shared", "u2", 4),
    "ld.shared.v2.b8": load("shared", "u1", 2),
    "st.shared.b16": store("shared", "u2", 1), "st.shared.b32": store("shared", "u4", 1),
    "st.shared.v2.b16": store("shared", "u2", 2), "st.shared.v4.b16": store("shared", "u2", 4),
    "st.shared.v2.b32": store("shared", "u4", 2), "st.shared.v4.b32": store("shared", "u4", 4),
    "st.shared.v2.b8": store("shared", "u1", 2), "st.shared.v4.b8": store("shared", "u1", 4),
    "cp.async.cg.shared.global": copy_asynchronously,
    "cp.async.commit_group": commit_copies, "cp.async.wait_group": wait_for_copies,
}  # fmt: skip
