"""The threads of the blocks that run in lockstep: registers, operands, and the lanes that a guard leaves active."""

import numpy as np

from tests.ptx.memory import AddressMemory, Memory
from tests.ptx.parse import GpuError, Kernel, address_parts, constant
from tests.ptx.shared import SharedMemory


class Threads:
    """State of `blocks` blocks from `first_block` on.

    A register is an array over all threads, (n,), or (1,) where it is the same in all. It holds bits: unsigned integers
    of the register's size, bool for a predicate.
    """

    def __init__(
        self, kernel: Kernel, memory: Memory | AddressMemory, arguments: list[bytes], grid: tuple[int, int, int],
        shared_bytes: int, first_block: int, blocks: int, check_races: bool,
    ):  # fmt: skip
        self.kernel, self.memory = kernel, memory
        per_block = kernel.threads_per_block
        self.count, self.blocks = blocks * per_block, blocks
        self.parameters = {name: raw for (name, _), raw in zip(kernel.parameters, arguments, strict=True)}
        self.shared = SharedMemory(blocks, shared_bytes, per_block, check_races)
        block = np.repeat(np.arange(first_block, first_block + blocks), per_block)
        x, y, _ = grid
        self.registers: dict[str, np.ndarray] = {
            "%tid.x": np.tile(np.arange(per_block, dtype=np.uint32), blocks),
            "%ctaid.x": (block % x).astype(np.uint32),
            "%ctaid.y": (block // x % y).astype(np.uint32),
            "%ctaid.z": (block // x // y).astype(np.uint32),
        }
        self.unfinished: set[str] = set()  # registers that a wgmma fills which was not waited for
        self.mask: np.ndarray | None = None  # (n,) of the active lanes; None: all
        self.text = ""  # the instruction that runs, for faults
        self._every_lane = np.arange(self.count)
        self._sizes: dict[str, int] = {}

    @property
    def lanes(self) -> np.ndarray:
        """Indices of the active lanes, ascending."""
        return self._every_lane if self.mask is None else np.flatnonzero(self.mask)

    def read(self, operand: str, dtype: str) -> np.ndarray:
        """A register or literal as (n,) or (1,) of a type of the register's size."""
        if operand[0] != "%":
            return constant(operand, dtype)
        value = self.registers.get(operand)
        if value is None:
            raise GpuError(f"{operand} is read before it is written: {self.text}")
        if operand in self.unfinished:
            raise GpuError(f"{operand} is read before the wgmma that fills it was waited for: {self.text}")
        if value.dtype.itemsize != np.dtype(dtype).itemsize:
            raise GpuError(f"{operand} is read as {dtype}, which is not its size: {self.text}")
        return value.view(dtype)

    def read_all(self, operand: str, dtype: str) -> np.ndarray:
        """The same, (n,) always."""
        return np.ascontiguousarray(np.broadcast_to(self.read(operand, dtype), self.count))

    def write(self, register: str, value: np.ndarray) -> None:
        """value: (n,) or (1,), of the register's size. Lanes that are not active keep what they have."""
        if register == "_":  # a sink
            return
        size = self.size_of(register)
        if value.dtype.itemsize != size:
            raise GpuError(f"{value.dtype} is written to {register}, which is not its size: {self.text}")
        if value.dtype != bool:
            value = value.view(f"u{size}")
        if self.mask is not None:
            value = np.where(self.mask, value, self._before(register, value.dtype))
        self.registers[register] = value

    def write_lanes(self, register: str, values: np.ndarray, lanes: np.ndarray) -> None:
        """values: (k,), unsigned, for those k lanes; the others keep what they have."""
        if register == "_":
            return
        if len(lanes) == self.count:
            self.write(register, np.ascontiguousarray(values))
            return
        size = self.size_of(register)
        if values.dtype.itemsize != size:
            raise GpuError(f"{values.dtype} is written to {register}, which is not its size: {self.text}")
        whole = np.array(np.broadcast_to(self._before(register, values.dtype), self.count))
        whole[lanes] = values
        self.registers[register] = whole

    def _before(self, register: str, dtype: np.dtype) -> np.ndarray:
        old = self.registers.get(register)
        poison = np.array([True]) if dtype.kind == "b" else np.array([np.iinfo(dtype).max], dtype)
        return poison if old is None else old

    def size_of(self, register: str) -> int:
        """Bytes of a register, from its declaration."""
        size = self._sizes.get(register)
        if size is None:
            size = self._sizes[register] = self.kernel.register_bytes.get(register.rstrip("0123456789"), 0)
            if not size:
                raise GpuError(f"{register} is not declared: {self.text}")
        return size

    def global_address(self, operand: str) -> np.ndarray:
        """uint64, (n,) or (1,)."""
        base, offset = address_parts(operand)
        return self.read(base, "u8") + np.uint64(offset & (1 << 64) - 1)

    def shared_address(self, operand: str) -> np.ndarray:
        """Bytes from the start of the block's shared memory: int64, (n,)."""
        base, offset = address_parts(operand)
        is_wide = base[0] == "%" and self.size_of(base) == 8  # NVRTC's addresses have 64 bits in every space
        return np.broadcast_to(self.read(base, "i8" if is_wide else "i4").astype(np.int64) + offset, self.count)

    def need_all(self) -> None:
        """For instructions that every thread of a warp or block must run."""
        if self.mask is not None:
            raise GpuError(f"not all threads reach {self.text}")

    def same_in_warps(self, operand: str, dtype: str, size: int = 32) -> np.ndarray:
        """One value for every group of `size` threads; threads that disagree are a fault."""
        value = self.read_all(operand, dtype).reshape(-1, size)
        if (value != value[:, :1]).any():
            raise GpuError(f"{operand} differs between threads that must agree: {self.text}")
        return value[:, 0]
