"""Checks a plugin library of one's own: every kernel for every GPU that the machine of tests/ptx knows, on the CPU.

    python -m tests.plugin.check_library build/plugin/librmt_edge_plugin_x86_64.so

A GPU's PTX comes from where the build keeps it (build/plugin-cache), found by the cubin's hash. Prints one line a case
with its largest error, and one a GPU; the exit code is 1 if something is wrong.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.ops.retention import kernels
from rmt_edge.plugin import cxx, load
from tests.boxes import random_boxes
from tests.ops.depthwise.test_depthwise import FP16, FP32, make_case
from tests.plugin.box_cases import check_nms, check_roi_align
from tests.plugin.kernel_cases import check_depthwise, check_raw_retention, check_retention, check_retention_int8
from tests.ptx.device import Device
from tests.ptx.parse import GpuError

KNOWN_SMS = (80, 86, 87, 89, 90)
# Channels, for every size of row that the LayerNorm kernels come in: in CUDA C++, and in Triton for float32.
ROWS = {FP16: (64, 128, 256, 512, 1024), FP32: (256, 1024)}
ANY_GRID = (2, 5, 19)  # of a size that no lanes hold: for the Triton kernels
# b, h, w, heads, head dim, and whether decomposed: whole lines of every number of tokens that a lane has, and a grid.
LINES = (
    ((1, 4, 14, 1, 32), True),
    ((1, 20, 4, 1, 32), True),
    ((1, 4, 20, 1, 32), True),
    ((1, 7, 14, 1, 16), True),
    ((5, 5, 7, 1, 32), False),
)
# There is no CUDA kernel for this form: raw products of it, where a library takes them, are for Triton's.
RAW_OF_TRITON = ((2, 5, 9, 2, 16), False)
HAS_RAW_INT8 = any(x.name.startswith("retention_whole_d16_raw8_") for x in kernels.aot_variants())
SCALES = {"fp16": 0.0, "int8": 0.0125}  # of the output
FORM_NAMES = {True: "decomposed", False: "whole"}


def cases() -> Iterator[tuple[str, Callable[[Device], float]]]:
    """Name and check of what together runs every kernel of a library."""
    yield from _retention_cases()
    for dtype, type_name in ((FP16, "fp16"), (FP32, "fp32")):
        for op_type, form in OP_TYPES.items():
            if form.is_scaled and dtype == FP32:
                continue  # refused: raw products are for float16
            for c in ROWS[dtype] if form.has_norm else ROWS[dtype][:1]:
                for is_int8_input in (False, True)[: 1 + form.is_scaled]:
                    case = make_case((2, 3, 5, c), 3, form, dtype, is_int8_input)
                    given = "int8" if is_int8_input else type_name
                    yield f"{op_type}, {c} channels, {given}", partial(_depthwise, op_type, case)
        run = partial(_roi_align, (2, 4, 16, 64, 96, 7), dtype)
        yield f"MultiLevelRoiAlign, 16 channels, {type_name}", run
    yield "Nms, 150 boxes", partial(_nms, (random_boxes(2, 150), 0.5, 0.05, 20))


def _retention_cases() -> Iterator[tuple[str, Callable[[Device], float]]]:
    checks = {"int8": check_retention_int8}
    for dtype, type_name in ((FP16, "fp16"), (FP32, "fp32")):
        for d in (16, 32):
            for decomposed, form in FORM_NAMES.items():
                for output in (type_name, "int8"):
                    run = partial(_retention, checks.get(output, check_retention), (*ANY_GRID, 2, d), decomposed, dtype)
                    yield f"Retention {form}, head dim {d}, {type_name} -> {output}", run
    for shape, decomposed in (*LINES, RAW_OF_TRITON):
        size = f"Retention {FORM_NAMES[decomposed]}, grid {shape[1]} x {shape[2]}, head dim {shape[4]}"
        for output, scale in SCALES.items():
            if (shape, decomposed) != RAW_OF_TRITON:
                run = partial(_retention, checks.get(output, check_retention), shape, decomposed, FP16)
                yield f"{size}, fp16 -> {output}", run
            if (shape, decomposed) != RAW_OF_TRITON or HAS_RAW_INT8:
                yield f"{size}, raw int8 -> {output}", partial(_raw_retention, shape, decomposed, True, scale)
            yield f"{size}, raw fp16 -> {output}", partial(_raw_retention, shape, decomposed, False, scale)


def _retention(check: Callable, shape: tuple, decomposed: bool, dtype, device: Device) -> float:
    return check(device, shape, decomposed, dtype)


def _raw_retention(shape: tuple, decomposed: bool, is_int8_input: bool, scale: float, device: Device) -> float:
    return check_raw_retention(device, shape, decomposed, is_int8_input, scale)


def _depthwise(op_type: str, case, device: Device) -> float:
    return check_depthwise(device, op_type, case)


def _nms(case: tuple, device: Device) -> float:
    return check_nms(device, case)


def _roi_align(regions: tuple, dtype, device: Device) -> float:
    return check_roi_align(device, regions, {FP16: np.float16, FP32: np.float32}[dtype])


def check_gpu(library: Path, sm: int, cache: Path, folder: Path) -> bool:
    """Run every case on a GPU of that generation; prints what it finds."""
    device = Device(library, sm, folder, cxx.find_headers(cache, None), cache / "kernels")
    wrong = 0
    for name, check in cases():
        try:
            print(f"  {name}: {check(device):.2g}")
        except (GpuError, AssertionError) as error:
            wrong += 1
            print(f"  {name}: WRONG: {str(error).splitlines()[0]}")
    executed, held = len({x.image for x in device.launches}), device.info()["kernels"]
    is_right = not wrong and executed == held
    verdict = "all right" if is_right else f"{wrong} cases wrong, {held - executed} kernels not reached"
    print(f"SM {sm / 10}: {executed} of {held} kernels in {len(device.launches)} launches, {verdict}")
    return is_right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("build/plugin-cache"), help="of the build")
    args = parser.parse_args()
    sms = [x for x in load.library_info(args.library)["cubin_sms"] if x in KNOWN_SMS]
    results = []
    for sm in sms:
        with tempfile.TemporaryDirectory() as folder:
            results.append(check_gpu(args.library, sm, args.cache, Path(folder)))
    return int(not results or not all(results))


if __name__ == "__main__":
    sys.exit(main())
