"""Which forms of the CUDA kernel (kernels.cu) the plugin library carries: all of DepthwiseResidual in float16.

The kernel's name begins with the op type, so plugin/cpp/depthwise/depthwiseResidualLaunch.cpp asks for the form of its
node. Its tactics are numbers of rows a thread, which the launch hands over: one kernel has them all.
"""

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES, Form
from rmt_edge.ops.kernel_variant import CudaVariant

SOURCE, SYMBOL = "depthwise/kernels.cu", "depthwise_residual_columns"
PARAMETERS = 17
WARP, CHANNELS = 32, 4  # of a thread
ROW_SIZES = (64, 128, 256, 512, 1024)  # channels that the threads of a position hold; a LayerNorm needs all of them
THREADS = 128
COLUMNS, GELU_COLUMNS = 2, 4  # an activation is computed again for each column that reads it


def aot_variants() -> list[CudaVariant]:
    """Every CUDA kernel of DepthwiseResidual in the library."""
    return [
        _variant(op_type, form, given, size)
        for op_type, form in OP_TYPES.items()
        for given in (("raw", "raw8") if form.is_scaled else ("fp16",))
        for size in (ROW_SIZES if form.has_norm else (0,))
    ]


def _variant(op_type: str, form: Form, given: str, size: int) -> CudaVariant:
    lanes = size // CHANNELS
    threads = max(THREADS, lanes)
    columns = GELU_COLUMNS if form.has_gelu else COLUMNS
    defines = {
        "COLUMNS": columns,
        "THREADS": threads,
        "LANES": lanes,
        "HAS_RESIDUAL": int(form.has_residual),
        "HAS_GELU": int(form.has_gelu),
        "INPUT": {"fp16": 0, "raw": 1, "raw8": 2}[given],
        "OUT_INT8": int(form.is_int8),
    }
    is_exchanged = lanes > WARP  # two turns of four numbers for every warp and column
    return CudaVariant(
        name=f"{op_type}_{given}" + (f"_c{size}" if size else ""),
        source=SOURCE,
        symbol=SYMBOL,
        defines=tuple(defines.items()),
        parameters=PARAMETERS,
        shared_bytes=2 * threads // WARP * columns * 16 if is_exchanged else 0,
        tile=(columns, threads // lanes if lanes else 0),
        num_warps=threads // WARP,
    )
