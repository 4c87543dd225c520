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

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.plugin import cxx, load
from tests.ops.depthwise.test_depthwise import FP16, FP32, make_case
from tests.plugin.kernel_cases import check_depthwise, check_retention, check_retention_int8
from tests.ptx.device import Device
from tests.ptx.parse import GpuError

KNOWN_SMS = (80, 86, 87, 89, 90)
ROWS = (64, 128, 256, 512, 1024)  # channels, for every size of row that the LayerNorm kernels come in


def cases() -> Iterator[tuple[str, Callable[[Device], float]]]:
    """Name and check of what together runs every kernel of a library."""
    for dtype, type_name in ((FP16, "fp16"), (FP32, "fp32")):
        for d in (16, 32):
            for decomposed, form in ((True, "decomposed"), (False, "whole")):
                for check, output in ((check_retention, type_name), (check_retention_int8, "int8")):
                    run = partial(_retention, check, (2, 5, 19, 2, d), decomposed, dtype)
                    yield f"Retention {form}, head dim {d}, {type_name} -> {output}", run
        for op_type, (_, has_norm, *_) in OP_TYPES.items():
            for c in ROWS if has_norm else ROWS[:1]:
                case = make_case((2, 3, 5, c), 3, OP_TYPES[op_type], dtype)
                yield f"{op_type}, {c} channels, {type_name}", partial(_depthwise, op_type, case)


def _retention(check: Callable, shape: tuple, decomposed: bool, dtype, device: Device) -> float:
    return check(device, shape, decomposed, dtype)


def _depthwise(op_type: str, case, device: Device) -> float:
    return check_depthwise(device, op_type, case)


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
