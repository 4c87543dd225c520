"""Shared memory of all blocks that run in lockstep, and the checker of races in it.

Lockstep hides races: here every thread is done with an instruction before any begins the next. On a GPU warps drift
apart between barriers. So for every byte the checker keeps who wrote it and who read it since the last barrier, and two
threads on one byte, one of them writing, are a fault unless `bar.sync` lies between, or `bar.warp.sync` for two threads
of one warp. Data in flight (cp.async, operands of wgmma) may not be touched before it has been waited for.
"""

import numpy as np

from tests.ptx.memory import READ, WRITE, WRITTEN, _Bytes, check_alignment
from tests.ptx.parse import GpuError

WARP = 32
ROW_BYTES = 16  # blocks lie this far apart at least, so that the alignment within a block is that in the array
NOBODY = -1


class SharedMemory:
    """blocks x bytes_per_block bytes. Addresses are those within a block; lanes are threads over all blocks."""

    def __init__(self, blocks: int, bytes_per_block: int, threads_per_block: int, check_races: bool):
        self.size = bytes_per_block
        stride = max(ROW_BYTES, -(-bytes_per_block // ROW_BYTES) * ROW_BYTES)
        self._bytes = _Bytes(stride * blocks)
        self._bytes.flags[:] = READ | WRITE
        self._first = np.repeat(np.arange(blocks, dtype=np.int64), threads_per_block) * stride  # by lane
        self._races = Races(stride * blocks) if check_races else None
        self._uncommitted: list[tuple[np.ndarray, np.ndarray]] = []  # of cp.async: where, data
        self._groups: list[list[tuple[np.ndarray, np.ndarray]]] = []
        self._in_flight = np.zeros(stride * blocks, bool)

    def _checked(self, address: np.ndarray, lanes: np.ndarray, width: int, what: str) -> np.ndarray:
        check_alignment(address, width, what)
        outside = (address < 0) | (address + width > self.size)
        if outside.any():
            raise GpuError(f"shared byte {int(address[outside][0])} of {self.size}: {what}")
        at = address + self._first[lanes]
        if (self._uncommitted or self._groups) and self._in_flight[_each_byte(at, width)].any():
            raise GpuError(f"shared memory is touched before the cp.async that fills it was waited for: {what}")
        return at

    def read(self, address: np.ndarray, lanes: np.ndarray, width: int, what: str) -> np.ndarray:
        """Elements as CARRIERS[width]. address: (k,), int64; lanes: (k,), which threads read."""
        at = self._checked(address, lanes, width, what)
        if (self._bytes.flags_at(at, width) & WRITTEN == 0).any():
            raise GpuError(f"a read of shared memory that nobody wrote: {what}")
        if self._races is not None:
            self._races.read(_each_byte(at, width), lanes, what)
        return self._bytes.gather(at, width)

    def write(self, address: np.ndarray, lanes: np.ndarray, values: np.ndarray, what: str) -> None:
        """values: (k,) of one of CARRIERS."""
        at = self._checked(address, lanes, values.dtype.itemsize, what)
        if self._races is not None:
            self._races.write(_each_byte(at, values.dtype.itemsize), lanes, what)
        self._bytes.scatter(at, values, what)

    def copy_later(self, address: np.ndarray, lanes: np.ndarray, values: np.ndarray, what: str) -> None:
        """cp.async: the data lands when its group is waited for, and until then nobody may touch the place."""
        at = self._checked(address, lanes, values.dtype.itemsize, what)
        where = _each_byte(at, values.dtype.itemsize)
        if self._races is not None:
            self._races.write(where, lanes, what)
        self._in_flight[where] = True
        self._uncommitted.append((at, values))

    def commit_copies(self) -> None:
        self._groups.append(self._uncommitted)
        self._uncommitted = []

    def wait_for_copies(self, still_pending: int, what: str) -> None:
        """cp.async.wait_group N: all but the N latest groups are done."""
        done = self._groups[: max(0, len(self._groups) - still_pending)]
        self._groups = self._groups[len(done) :]
        for at, values in (x for group in done for x in group):
            self._in_flight[_each_byte(at, values.dtype.itemsize)] = False
            self._bytes.scatter(at, values, what)

    def read_matrix(self, address: np.ndarray, first_lane: int, what: str) -> np.ndarray:
        """What wgmma reads of one block through the asynchronous proxy: float16 at those addresses. Same shape."""
        flat = address.reshape(-1)
        at = self._checked(flat, np.full(flat.size, first_lane), 2, what)
        if (self._bytes.flags_at(at, 2) & WRITTEN == 0).any():
            raise GpuError(f"a read of shared memory that nobody wrote: {what}")
        if self._races is not None:
            self._races.read_asynchronously(_each_byte(at, 2), what)
        return self._bytes.gather(at, 2).view(np.float16).reshape(address.shape)

    def barrier(self) -> None:
        if self._races is not None:
            self._races.barrier += 1
            self._races.warp_barrier += 1

    def warp_barrier(self) -> None:
        if self._races is not None:
            self._races.warp_barrier += 1

    def proxy_fence(self) -> None:
        if self._races is not None:
            self._races.fence += 1

    def matrices_done(self) -> None:
        """wgmma.wait_group 0: what they read may be overwritten."""
        if self._races is not None:
            self._races.being_read.clear()


def _each_byte(at: np.ndarray, width: int) -> np.ndarray:
    return at[:, None] + np.arange(width)  # (k, width)


class Races:
    """Who touched each byte last, and how many barriers had been passed then."""

    def __init__(self, size: int):
        self.barrier = self.warp_barrier = self.fence = 0
        self.being_read: list[np.ndarray] = []  # by wgmma
        self._writer, self._low, self._high = (np.full(size, NOBODY, np.int32) for _ in range(3))
        # barrier, warp_barrier and fence at the last write, barrier and warp_barrier at the last read
        self._write_barrier, self._write_warp, self._write_fence = (np.full(size, NOBODY, np.int32) for _ in range(3))
        self._read_barrier, self._read_warp = (np.full(size, NOBODY, np.int32) for _ in range(2))

    def _conflicts(self, other: np.ndarray, lane: np.ndarray, barrier: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """Whether `other` touched the byte and no barrier that holds for both threads came since."""
        same_warp = other // WARP == lane // WARP
        unordered = np.where(same_warp, warp == self.warp_barrier, barrier == self.barrier)
        return (other != NOBODY) & (other != lane) & unordered

    def _check_writer(self, where: np.ndarray, lane: np.ndarray, what: str) -> None:
        writer = self._writer[where]
        bad = self._conflicts(writer, lane, self._write_barrier[where], self._write_warp[where])
        if bad.any():
            threads = int(writer[bad][0]), int(np.broadcast_to(lane, bad.shape)[bad][0])
            raise GpuError(
                f"race: thread {threads[0]} wrote what thread {threads[1]} touches, no barrier since: {what}"
            )

    def read(self, where: np.ndarray, lanes: np.ndarray, what: str) -> None:
        """where: (k, width) bytes; lanes: (k,), ascending."""
        lane = lanes.astype(np.int32)[:, None]
        self._check_writer(where, lane, what)
        old_low, old_high = self._low[where], self._high[where]
        # Forgotten: readers before the last barrier, and those of this warp before its last one.
        same_warp = (old_low // WARP == lane // WARP) & (old_high // WARP == lane // WARP)
        stale = (self._read_barrier[where] != self.barrier) | (
            same_warp & (self._read_warp[where] != self.warp_barrier)
        )
        stale |= old_low == NOBODY
        whole = np.broadcast_to(lane, where.shape)
        self._high[where] = whole  # of several lanes on one byte the last one stays: the highest
        high = self._high[where]
        self._low[where[::-1]] = whole[::-1]
        low = self._low[where]
        self._low[where] = np.where(stale, low, np.minimum(low, old_low))
        self._high[where] = np.where(stale, high, np.maximum(high, old_high))
        self._read_barrier[where] = self.barrier
        self._read_warp[where] = self.warp_barrier

    def write(self, where: np.ndarray, lanes: np.ndarray, what: str) -> None:
        lane = lanes.astype(np.int32)[:, None]
        self._check_writer(where, lane, what)
        for reader in (self._low[where], self._high[where]):
            bad = self._conflicts(reader, lane, self._read_barrier[where], self._read_warp[where])
            if bad.any():
                raise GpuError(
                    f"race: thread {int(reader[bad][0])} reads what another overwrites, no barrier between: {what}"
                )
        if any(np.isin(where, read).any() for read in self.being_read):
            raise GpuError(f"race: a write to an operand of a wgmma that was not waited for: {what}")
        self._writer[where] = lane
        self._write_barrier[where] = self.barrier
        self._write_warp[where] = self.warp_barrier
        self._write_fence[where] = self.fence

    def read_asynchronously(self, where: np.ndarray, what: str) -> None:
        """wgmma reads for all warps and by another way to memory: a barrier and a proxy fence must lie between."""
        if (self._write_barrier[where] == self.barrier).any():
            raise GpuError(f"race: wgmma reads what was written since the last barrier: {what}")
        if (self._write_fence[where] == self.fence).any():
            raise GpuError(f"race: no fence.proxy.async between a write and the wgmma that reads it: {what}")
        self.being_read.append(np.unique(where))
