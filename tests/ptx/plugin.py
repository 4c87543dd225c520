"""One plugin of the library, driven through native/host.cpp as TensorRT drives it."""

import ctypes

import numpy as np

from tests.ptx.device import STREAM, Device
from tests.ptx.memory import READ, WRITE
from tests.ptx.parse import GpuError

# nvinfer1::DataType and nvinfer1::PluginFieldType.
DATA_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2, np.dtype(np.int32): 3}
NUMPY_TYPES = {number: dtype for dtype, number in DATA_TYPES.items()}
FIELD_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 5, np.dtype(np.uint8): 6, np.dtype(np.int64): 10}
MAX_DIMS, MAX_TACTICS = 8, 16
CALLBACKS = {1: "setTactic", 2: "onShapeChange", 3: "enqueue"}


class _Field(ctypes.Structure):
    """nvinfer1::PluginField."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class _Tensor(ctypes.Structure):
    """struct Tensor of native/host.cpp."""

    _fields_ = [("rank", ctypes.c_int32), ("sizes", ctypes.c_int64 * MAX_DIMS), ("type", ctypes.c_int32)]


class Plugin:
    """attributes: as an ONNX node has them. inputs, outputs: (shape, dtype) of each, a batch of -1 is dynamic.

    integers: the type in which the parser hands integer attributes over; newer ones take 64 bits.
    """

    def __init__(
        self, device: Device, op_type: str, attributes: dict, inputs: list, output_shapes: list, opt_batch: int = 4,
        max_batch: int = 8, contexts: int = 1, integers: type = np.int64,
    ):  # fmt: skip
        self.device, self.output_shapes = device, output_shapes
        arrays = {name: _field_array(value, integers) for name, value in attributes.items()}
        fields = (_Field * len(arrays))(
            *(_Field(n.encode(), a.ctypes.data, FIELD_TYPES[a.dtype], a.size) for n, a in arrays.items())
        )
        tensors = [*inputs, *((shape, inputs[0][1]) for shape in output_shapes)]
        described = (_Tensor * len(tensors))(*(_described(*x) for x in tensors))
        self.handle = ctypes.c_void_p(device.host.host_make(
            ctypes.c_void_p(device.library._handle), op_type.encode(), fields, len(fields), described, len(inputs),
            len(output_shapes), ctypes.c_int64(opt_batch), ctypes.c_int64(max_batch), contexts,
        ))  # fmt: skip
        device.raise_error()
        problem = device.host.host_problem(self.handle).decode()
        if problem:
            message = device.last_error()
            self.close()
            raise GpuError(f"{op_type}: {problem}: {message}")
        self.output_types = [
            NUMPY_TYPES[device.host.host_output_type(self.handle, i)] for i in range(len(output_shapes))
        ]
        tactics = (ctypes.c_int32 * MAX_TACTICS)()
        self.tactics = list(tactics[: device.host.host_tactics(self.handle, tactics)])
        self.workspace_bytes = device.host.host_workspace_bytes(self.handle)

    def __call__(
        self, arrays: list[np.ndarray], tactic: int = 0, context: int = 0, offset: int = 0, is_told: bool = True
    ) -> list[np.ndarray]:
        """The outputs. tactic 0 lets the plugin choose; offset: bytes that every input lies off its alignment.

        is_told: whether onShapeChange comes before enqueue.
        """
        device, memory = self.device, self.device.memory
        batch = arrays[0].shape[0]
        shapes = [(batch, *shape[1:]) for shape in self.output_shapes]
        mark = memory.mark()
        try:
            inputs = [memory.put(x, READ, offset) for x in arrays]
            outputs = [
                memory.allocate(int(np.prod(shape)) * dtype.itemsize, WRITE)
                for shape, dtype in zip(shapes, self.output_types, strict=True)
            ]
            workspace = memory.allocate(self.workspace_bytes) if self.workspace_bytes else 0
            status = device.host.host_enqueue(
                self.handle, context, tactic, ctypes.c_int64(batch), (ctypes.c_void_p * len(inputs))(*inputs),
                (ctypes.c_void_p * len(outputs))(*outputs), ctypes.c_void_p(workspace), ctypes.c_void_p(STREAM),
                int(is_told),
            )  # fmt: skip
            device.raise_error()
            if status:
                raise GpuError(f"{CALLBACKS[status]}: {device.last_error()}")
            return [memory.get(*x) for x in zip(outputs, shapes, self.output_types, strict=True)]
        finally:
            memory.free_from(mark)

    def close(self) -> None:
        self.device.host.host_free(self.handle)


def _field_array(value: object, integers: type) -> np.ndarray:
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    array = np.atleast_1d(np.asarray(value))
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else integers)


def _described(shape: tuple[int, ...], dtype: np.dtype) -> _Tensor:
    sizes = (ctypes.c_int64 * MAX_DIMS)(*shape)
    return _Tensor(len(shape), sizes, DATA_TYPES[np.dtype(dtype)])
