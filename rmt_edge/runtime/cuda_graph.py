"""CUDA graphs through the driver (libcuda.so.1, ctypes): pycuda, as of 2026.1, has none.

A graph holds what was enqueued on a stream once and launches all of it in one call, so that the host's part of an
inference no longer grows with its kernels. CUDA 11.4 or later (cuGraphInstantiateWithFlags); CUDA driver API, "Graph
Management" and "Stream Management". Never run on a GPU yet; tests hold it to a stand-in for the driver.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from rmt_edge.errors import RmtEdgeError

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads (telemetry) do not end the capture


def load_driver() -> Any:
    """The CUDA driver, or an error."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RmtEdgeError(f"There is no CUDA driver here: {error}.", do="Install NVIDIA's driver.") from error


class CudaGraph:
    """What `enqueue` puts on a stream, captured. stream: its handle; nothing is run while it is captured."""

    def __init__(self, driver: Any, stream: int, enqueue: Callable[[], None]):
        self.driver, self.stream = driver, ctypes.c_void_p(stream)
        self.graph, self.executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, ctypes.c_int(THREAD_LOCAL))
        try:
            enqueue()
        finally:  # a stream that is left capturing refuses everything after
            ended = self.driver.cuStreamEndCapture(self.stream, ctypes.byref(self.graph))
        self._check("cuStreamEndCapture", ended)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self.executable), self.graph, ctypes.c_ulonglong(0))

    def launch(self) -> None:
        """Put all of it on the stream again."""
        self._call("cuGraphLaunch", self.executable, self.stream)

    def close(self) -> None:
        """Free the graph; it may be on its way on the GPU."""
        self.driver.cuGraphExecDestroy(self.executable)
        self.driver.cuGraphDestroy(self.graph)

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self.driver, name)(*arguments))

    def _check(self, name: str, result: int) -> None:
        if result == 0:
            return
        text = ctypes.c_char_p()
        self.driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
        reason = text.value.decode() if text.value else f"error {result}"
        raise RmtEdgeError(
            f"The engine does not run as a CUDA graph: {name}: {reason}.",
            "a graph cannot hold work that waits for the host or allocates memory.",
            "Measure with --no-cuda-graph.",
        )
