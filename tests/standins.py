"""Stand-ins for pycuda, TensorRT and the CUDA driver, for tests without a GPU.

Work on a stream waits in a queue until somebody waits for it, as on a GPU, so that what forgets to wait reads old data.
The engine's logits are sums over its images: (b, 3, h, w) -> (b, 2), all of them and the first channel. A clock of its
own goes on by COPY_MS for a copy and COMPUTE_MS for each image of a batch.
"""

from types import SimpleNamespace

import numpy as np

from rmt_edge.artifact import ENGINE, parent_of, write_manifest
from rmt_edge.writing import written_whole

COPY_MS, COMPUTE_MS = 0.125, 0.5
SHAPE, LARGEST = (3, 4, 5), 8
PLAN = b"plan"


class Gpu:
    """What all stand-ins share: memory by address, the clock, the stream, and what was asked, in order."""

    def __init__(self):
        self.memory, self.clock_ms, self.calls = {}, 0.0, []
        self.stream = Stream(self)
        self.contexts = 0  # that were pushed and not popped

    @property
    def context_is_current(self):
        return self.contexts > 0


class Stream:
    handle = 7

    def __init__(self, gpu):
        self.gpu, self.queue, self.captured = gpu, [], None

    def push(self, work):
        (self.queue if self.captured is None else self.captured).append(work)

    def synchronize(self):
        assert self.captured is None, "waiting is not allowed in a capture"
        queue, self.queue = self.queue, []
        for work in queue:
            work()


class Event:
    def __init__(self, gpu):
        self.gpu, self.at = gpu, None

    def record(self, stream):
        self.at = None

        def stamp():
            self.at = self.gpu.clock_ms

        stream.push(stamp)

    def synchronize(self):
        self.gpu.stream.synchronize()

    def time_since(self, start):
        return self.at - start.at


class Allocation:
    def __init__(self, gpu, size):
        self.gpu, self.address = gpu, 4096 * (len(gpu.memory) + 1)
        gpu.memory[self.address] = np.full(size // 4, np.nan, np.float32)

    def __int__(self):
        return self.address

    def free(self):
        assert self.gpu.context_is_current
        del self.gpu.memory[self.address]


def pycuda_driver(gpu):
    """pycuda.driver."""

    def copy(target, source):
        def work():
            target[...] = source.reshape(target.shape)
            gpu.clock_ms += COPY_MS

        gpu.stream.push(work)

    def push():
        gpu.contexts += 1

    def pop():
        gpu.contexts -= 1

    device = SimpleNamespace(
        pci_bus_id=lambda: "0000:01:00.0", retain_primary_context=lambda: SimpleNamespace(push=push, pop=pop)
    )
    return SimpleNamespace(
        init=lambda: gpu.calls.append("init"),
        Device=lambda index: device,
        Stream=lambda: gpu.stream,
        Event=lambda: Event(gpu),
        pagelocked_empty=lambda shape, dtype: np.full(shape, np.nan, dtype),
        mem_alloc=lambda size: Allocation(gpu, size),
        memcpy_htod_async=lambda to, host, stream: copy(gpu.memory[int(to)], host),
        memcpy_dtoh_async=lambda host, there, stream: copy(host, gpu.memory[int(there)]),
    )


class Driver:
    """libcuda's functions for graphs, as cuda_graph.py calls them."""

    def __init__(self, gpu, fails=""):
        self.gpu, self.fails, self.graphs = gpu, fails, {}

    def _result(self, name):
        self.gpu.calls.append(name)
        return 900 if name == self.fails else 0

    def cuStreamBeginCapture_v2(self, stream, mode):  # noqa: N802
        assert stream.value == Stream.handle and mode.value == 1
        self.gpu.stream.captured = []
        return self._result("begin")

    def cuStreamEndCapture(self, stream, graph):  # noqa: N802
        graph._obj.value = len(self.graphs) + 1
        self.graphs[graph._obj.value], self.gpu.stream.captured = self.gpu.stream.captured, None
        return self._result("end")

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):  # noqa: N802
        executable._obj.value = graph.value
        return self._result("instantiate")

    def cuGraphLaunch(self, executable, stream):  # noqa: N802
        for work in self.graphs[executable.value]:
            self.gpu.stream.push(work)
        return self._result("launch")

    def cuGraphExecDestroy(self, executable):  # noqa: N802
        return self._result("destroy executable")

    def cuGraphDestroy(self, graph):  # noqa: N802
        return self._result("destroy graph")

    def cuGetErrorString(self, result, text):  # noqa: N802
        text._obj.value = b"operation not permitted when stream is capturing"
        return 0


class Context:
    def __init__(self, gpu, config):
        self.gpu, self.config, self.shape, self.addresses, self.is_running = gpu, config, None, {}, True

    def set_input_shape(self, name, shape):
        assert name == "images"
        self.shape = shape

    def get_tensor_shape(self, name):
        return self.shape if name == "images" else (self.shape[0], 2)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == Stream.handle
        images, logits = (self.gpu.memory[self.addresses[x]] for x in ("images", "logits"))

        def work():
            x = images.reshape(self.shape)
            logits[...] = np.stack([x.sum((1, 2, 3)), x[:, 0].sum((1, 2))], 1).ravel()
            self.gpu.clock_ms += COMPUTE_MS * self.shape[0]
            if self.config is not None:
                self.config.cache.compiled.add(self.shape)

        self.gpu.calls.append("enqueue")
        self.gpu.stream.push(work)
        return self.is_running


class Cache:
    """TensorRT-RTX's runtime cache: here the shapes that were run."""

    def __init__(self):
        self.compiled = set()

    def serialize(self):
        return repr(sorted(self.compiled)).encode()

    def deserialize(self, content):
        self.compiled = {tuple(x) for x in eval(content)}
        return True


def tensorrt(gpu, is_rtx=False, dtype="FLOAT", mode_of=None):
    """The module `tensorrt` or `tensorrt_rtx`. Engines are PLAN; contexts are kept in `module.contexts`."""
    module = SimpleNamespace(__name__="tensorrt_rtx" if is_rtx else "tensorrt", contexts=[], runtimes=[])
    module.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    module.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    module.DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF")
    if is_rtx:
        module.IRuntimeCache = Cache
        module.CudaGraphStrategy = SimpleNamespace(DISABLED="off", WHOLE_GRAPH_CAPTURE="whole")
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")

    def create_execution_context(config=None):
        module.contexts.append(Context(gpu, config))
        return module.contexts[-1]

    def create_runtime_config():
        config = SimpleNamespace(create_runtime_cache=Cache)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: ("images", "logits")[i],
        get_tensor_mode=mode_of or (lambda name: "in" if name == "images" else "out"),
        get_tensor_dtype=lambda name: dtype,
        get_tensor_profile_shape=lambda name, profile: [(n, *SHAPE) for n in (1, 4, LARGEST)],
        create_execution_context=create_execution_context,
        create_runtime_config=create_runtime_config,
    )

    def runtime(logger):
        module.runtimes.append(SimpleNamespace(deserialize_cuda_engine=lambda x: engine if x == PLAN else None))
        return module.runtimes[-1]

    module.Runtime = runtime
    return module


def write_engine(path, content=PLAN, precision="fp16", **details):
    """An engine file of the stand-in, with its manifest; returns its path."""
    known = {
        "backend": {"name": "tensorrt", "version": "10.3.0"}, "compute_capabilities": ["8.7"],
        "profile": {"backend": "tensorrt", "batches": [1, 4]}, "kernels": "native", "plugin_library": None,
    }  # fmt: skip
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
        write_manifest(
            temporary, path, kind=ENGINE, parents=[parent_of("x.onnx", "a" * 64)], details=known | details, seconds=0,
            recipe={"name": precision, "precision": precision},
        )  # fmt: skip
    return path
