"""What a kernel reads and writes: global memory with guard zones, shared memory of many blocks, addresses alone.

Every byte has flags: whether it may be read, whether it may be written, whether somebody has written it. A read of what
nobody wrote is a fault.
"""

import numpy as np

from tests.ptx.parse import GpuError

READ, WRITE, WRITTEN = 1, 2, 4
GUARD_BYTES = 4096  # between allocations: nothing there may be touched
ALIGNMENT = 256  # of cuMemAlloc, as the CUDA driver API promises at least
# One element of that many bytes, moved without regard to what it means.
CARRIERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


class _Bytes:
    """Bytes with flags, read and written as aligned elements of 1, 2, 4, 8 or 16 bytes."""

    def __init__(self, size: int):
        self.data = np.zeros(size, np.uint8)
        self.flags = np.zeros(size, np.uint8)
        self.elements = {width: self.data.view(carrier) for width, carrier in CARRIERS.items()}
        self._flag_elements = {width: self.flags.view(carrier) for width, carrier in CARRIERS.items()}

    def flags_at(self, at: np.ndarray, width: int) -> np.ndarray:
        """Flags of every byte of the elements at those byte offsets. (k,) -> (k, width)."""
        return self._flag_elements[width][at // width].view(np.uint8).reshape(-1, width)

    def gather(self, at: np.ndarray, width: int) -> np.ndarray:
        return self.elements[width][at // width]

    def scatter(self, at: np.ndarray, values: np.ndarray, what: str) -> None:
        """Write; two lanes that write different values to one place are a fault: either may win on a GPU."""
        width = values.dtype.itemsize
        index = at // width
        self.elements[width][index] = values
        if (self.elements[width][index].view(np.uint8) != values.view(np.uint8)).any():
            raise GpuError(f"two threads write different values to one address: {what}")
        # No bitwise or of complex numbers: 16 bytes are two halves.
        part = min(width, 8)
        flags = self._flag_elements[part].reshape(-1, width // part)
        flags[index] |= np.full(part, WRITTEN, np.uint8).view(CARRIERS[part])


class Memory:
    """The GPU's memory: one arena of the host's, so that device pointers are host pointers."""

    def __init__(self, size: int = 1 << 28):
        self._bytes = _Bytes(size)
        self.base = self._bytes.data.ctypes.data
        self._start = -self.base % ALIGNMENT + GUARD_BYTES
        self._next = self._start

    def allocate(self, size: int, access: int = READ | WRITE, offset: int = 0) -> int:
        """A pointer to that many bytes, `offset` bytes off the alignment of cuMemAlloc."""
        at = self._next + offset
        after = at + size + GUARD_BYTES
        if after > self._bytes.data.size:
            raise GpuError(f"the machine's memory of {self._bytes.data.size} bytes is full")
        self._next = self._start + -(-(after - self._start) // ALIGNMENT) * ALIGNMENT
        self._bytes.flags[at : at + size] = access
        return self.base + at

    def mark(self) -> int:
        """Where the next allocation lies; `free_from` gives back all that came after."""
        return self._next

    def free_from(self, mark: int) -> None:
        self._bytes.flags[mark : self._next] = 0
        self._next = mark

    def put(self, array: np.ndarray, access: int = READ, offset: int = 0) -> int:
        """A pointer to a copy of the array, which kernels may only read unless told otherwise."""
        array = np.ascontiguousarray(array)
        pointer = self.allocate(array.nbytes, access, offset)
        self.copy_in(pointer, array.reshape(-1).view(np.uint8))
        return pointer

    def copy_in(self, pointer: int, data: np.ndarray) -> None:
        """The host's cuMemcpyHtoD. data: (bytes,), uint8."""
        at = pointer - self.base
        if not (0 <= at <= self._bytes.data.size - data.size) or not self._bytes.flags[at : at + data.size].all():
            raise GpuError(f"a copy of {data.size} bytes to {pointer:#x} leaves its allocation")
        self._bytes.data[at : at + data.size] = data
        self._bytes.flags[at : at + data.size] |= WRITTEN

    def get(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A copy of what lies at the pointer; a byte of it that no kernel wrote is a fault."""
        at, size = pointer - self.base, int(np.prod(shape)) * np.dtype(dtype).itemsize
        missing = int((self._bytes.flags[at : at + size] & WRITTEN == 0).sum())
        if missing:
            raise GpuError(f"{missing} of {size} bytes of an output were never written")
        return self._bytes.data[at : at + size].copy().view(dtype).reshape(shape)

    def read(self, address: np.ndarray, width: int, what: str) -> np.ndarray:
        """Elements of `width` bytes at those addresses, as CARRIERS[width]. what: the instruction, for the fault."""
        at = self._checked(address, width, READ | WRITTEN, what)
        return self._bytes.gather(at, width)

    def write(self, address: np.ndarray, values: np.ndarray, what: str) -> None:
        """values: of one of CARRIERS."""
        at = self._checked(address, values.dtype.itemsize, WRITE, what)
        self._bytes.scatter(at, values, what)

    def _checked(self, address: np.ndarray, width: int, needed: int, what: str) -> np.ndarray:
        """Offsets into the arena, once alignment, bounds and flags of every byte are right."""
        check_alignment(address, width, what)
        at = address - np.uint64(self.base)
        outside = at > np.uint64(self._bytes.data.size - width)
        if outside.any():
            raise GpuError(f"{int(address[outside][0]):#x} is not device memory: {what}")
        at = at.astype(np.int64)
        flags = self._bytes.flags_at(at, width)
        lacking = (flags & needed) != needed
        if lacking.any():
            first = int(np.flatnonzero(lacking.any(1))[0])
            raise GpuError(f"{_reason(flags[first], needed)} {int(address[first]):#x}, {width} bytes: {what}")
        return at


def _reason(flags: np.ndarray, needed: int) -> str:
    if (flags == 0).any():
        return "out of bounds at"
    if needed & WRITE:
        return "a write to what may only be read, at"
    return "a read of what nobody wrote, at" if (flags & READ).all() else "a read of an output, at"


def check_alignment(address: np.ndarray, width: int, what: str) -> None:
    wrong = (address & np.asarray(width - 1, address.dtype)) != 0
    if wrong.any():
        raise GpuError(f"misaligned {width}-byte access at {int(address[wrong][0]):#x}: {what}")


class AddressMemory:
    """Ranges at far addresses, for tensors that no host could hold: only addresses are checked, every read gives 0.

    ranges: name -> (first address, bytes, READ or WRITE). seen: the lowest and highest byte touched in each.
    """

    def __init__(self, ranges: dict[str, tuple[int, int, int]]):
        self.ranges = ranges
        self.seen: dict[str, tuple[int, int]] = {}

    def read(self, address: np.ndarray, width: int, what: str) -> np.ndarray:
        self._check(address, width, READ, what)
        return np.zeros(len(address), CARRIERS[width])

    def write(self, address: np.ndarray, values: np.ndarray, what: str) -> None:
        self._check(address, values.dtype.itemsize, WRITE, what)

    def _check(self, address: np.ndarray, width: int, needed: int, what: str) -> None:
        check_alignment(address, width, what)
        for name, (first, size, access) in self.ranges.items():
            inside = (address >= np.uint64(first)) & (address <= np.uint64(first + size - width))
            if not inside.any():
                continue
            if not access & needed:
                raise GpuError(f"{name} must not be {'written' if needed & WRITE else 'read'}: {what}")
            offsets = address[inside] - np.uint64(first)
            low, high = self.seen.get(name, (size, 0))
            self.seen[name] = min(low, int(offsets.min())), max(high, int(offsets.max()) + width)
            address = address[~inside]
        if len(address):
            raise GpuError(f"{int(address[0]):#x} lies in no tensor: {what}")
