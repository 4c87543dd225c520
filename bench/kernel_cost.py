"""What every kernel of the plugin library costs, without a GPU: bytes to move against instructions to issue.

    python bench/kernel_cost.py --variant rmt_s --batch 64

For each kernel of each stage at 224 px on SM 8.7, 8.9 and 9.0: the compiled plugin launches it (stand-in driver), the
machine of tests/ptx runs a few blocks of the real grid on memory that checks addresses alone, and its loop counts are
laid on the SASS (sass.py), which gives the instructions that a warp executes.

    byte time    bytes / bandwidth; every tensor of the launch counts once, as if caches were perfect
    issue time   blocks · warps · instructions / (SMs · 4 a clock · clock)

Both are lower bounds: no kernel is faster than either, and real issue rates reach perhaps half. Where issue time over
byte time is below 1, memory can be the limit. Sums over a network take the plugin's first tactic, which is what a
builder that times nothing takes; the record has the others too. The last line on stdout is one JSON object.
"""

import argparse
import ctypes
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.depthwise.onnx_function import op_type_of
from rmt_edge.plugin import build, compile, cxx, load
from tests.ptx.device import STREAM, Device, Launch
from tests.ptx.memory import READ, WRITE, AddressMemory
from tests.ptx.parse import parse_kernel
from tests.ptx.plugin import Plugin

try:
    import sass
    from record import header
except ImportError:  # as a module of the tests
    from bench import sass
    from bench.record import header

INPUT_SIZE = 224
PATCH_SIZES = (4, 8, 16, 32)  # of the stages: pixels a token, RMT's paper, figure 3
HALF, FLOAT, INT8 = 2, 4, 1  # bytes
FP16 = 1  # RMT_EDGE_FLOAT16
LEPE_TAPS, CONV_TAPS = 25, 9
FAR = 1 << 40  # tensors lie so far apart
OUTPUT_SCALE = 0.02  # any: it costs the same


@dataclass(frozen=True)
class Machine:
    """A GPU and the limits of its SM.

    bytes_per_s, sms, clock_hz: H100 SXM and Jetson AGX Orin 64 GB as in FACTS (3.35 TB/s reach about 3.0 in copies),
    L4 from its data sheet (300 GB/s, 58 SMs, 2.04 GHz). Limits: CUDA C++ Programming Guide, table of technical
    specifications per compute capability; registers come in steps of 256 a warp, shared memory loses 1 KiB a block.
    """

    name: str
    bytes_per_s: float
    sms: int
    clock_hz: float
    warps: int
    blocks: int
    shared_bytes: int


MACHINES = {
    87: Machine("Jetson AGX Orin 64 GB", 204e9, 16, 1.3e9, 48, 16, 164 * 1024),
    89: Machine("L4", 300e9, 58, 2.04e9, 48, 24, 100 * 1024),
    90: Machine("H100 SXM", 3.0e12, 132, 1.755e9, 64, 32, 228 * 1024),
}
ISSUE_PER_CLOCK = 4  # warp instructions, one a scheduler
REGISTERS, REGISTER_STEP, WARP, RESERVED_SHARED = 65536, 256, 32, 1024


@dataclass(frozen=True)
class Call:
    """One op of one stage, and how often a network has it."""

    op: str  # "retention" or "depthwise"
    label: str
    shape: tuple[int, ...]  # b, h, w, heads, head dim; or b, h, w, c
    form: tuple[bool, ...]  # decomposed; or has_residual, has_norm
    is_int8: bool  # the output
    count: int


def calls_of(variant: str, batch: int, is_int8: bool = False) -> list[Call]:
    """Every op of the network in FP16; with is_int8 those outputs in 8 bits that a Linear layer reads."""
    v, found = VARIANTS[variant], []
    for i, (c, n, depth) in enumerate(zip(v.dims, v.num_heads, v.depths, strict=True)):
        side = INPUT_SIZE // PATCH_SIZES[i]
        grid, stage = (batch, side, side), f"stage {i + 1}"
        form = "decomposed" if v.decomposed[i] else "whole"
        found += [
            Call("retention", f"{stage} {form}", (*grid, n, c // n), (v.decomposed[i],), is_int8, depth),
            Call("depthwise", f"{stage} first CPE+LN", (*grid, c), (False, True), is_int8, 1),
            Call("depthwise", f"{stage} CPE+add+LN", (*grid, c), (True, True), is_int8, depth - 1),
            Call("depthwise", f"{stage} FFN", (*grid, c * v.ffn_ratios[i]), (False, False), is_int8, depth),
        ]
    return [x for x in found if x.count]


def tensors_of(call: Call) -> tuple[str, dict[str, tuple[int, int] | None], tuple]:
    """The C entry point, its tensors (bytes, access) in order, and the numbers behind them up to the tactic."""
    scale = ctypes.c_float(OUTPUT_SCALE if call.is_int8 else 0)
    last = INT8 if call.is_int8 else HALF
    if call.op == "retention":
        b, h, w, n, d = call.shape
        c, l, (decomposed,) = n * d, h * w, call.form
        return "rmt_retention_launch", {
            "qkv": (b * l * 3 * c * HALF, READ), "sin": (l * d * HALF, READ), "cos": (l * d * HALF, READ),
            "lepe_weight": (c * LEPE_TAPS * HALF, READ), "lepe_bias": (c * HALF, READ), "decay": (n * FLOAT, READ),
            "qkv_scale": None, "qkv_bias": None,
            "out": (b * l * c * last, WRITE), "workspace": (b * l * c * HALF, READ | WRITE),
        }, (b, h, w, n, d, int(decomposed), FP16, ctypes.c_float(0), scale)  # fmt: skip
    b, h, w, c = call.shape
    has_residual, has_norm = call.form
    whole, row = b * h * w * c, (c * HALF, READ)
    return "rmt_depthwise_residual_launch", {
        "x": (whole * HALF, READ), "weight": (CONV_TAPS * c * HALF, READ), "bias": row,
        "residual": (whole * HALF, READ) if has_residual else None,
        "norm_weight": row if has_norm else None, "norm_bias": row if has_norm else None,
        "out": (whole * (HALF if has_norm else last), WRITE), "norm": (whole * last, WRITE) if has_norm else None,
    }, (b, h, w, c, FP16, ctypes.c_float(1e-6), scale)  # fmt: skip


def launches_of(device: Device, call: Call, tactic: int) -> list[Launch]:
    """What the library launches for the call. tactic: 0 chooses."""
    function, sizes, numbers = tensors_of(call)
    first = {name: FAR * (i + 1) if size else None for i, (name, size) in enumerate(sizes.items())}
    device.memory = AddressMemory({name: (first[name] or 0, *size) for name, size in sizes.items() if size})
    device.check_races = False
    device.launches.clear()
    pointers = [ctypes.c_void_p(x) for x in first.values()]
    status = getattr(device.library, function)(*pointers, *numbers, tactic, ctypes.c_void_p(STREAM))
    device.raise_error()
    assert status == 0, device.last_error()
    return list(device.launches)


def moved_bytes(call: Call, kernel: str) -> int:
    """Bytes that a launch must move: each of its tensors once. What constants there are once too."""
    _, sizes, _ = tensors_of(call)
    total = sum(size[0] for name, size in sizes.items() if size and name not in ("qkv", "workspace", "out"))
    if call.op == "depthwise":
        return total + sizes["out"][0]  # type: ignore[index]
    third = sizes["qkv"][0] // 3  # type: ignore[index]
    out, between = sizes["out"][0], third  # type: ignore[index]
    if kernel.startswith("retention_w_"):
        return sum(sizes[x][0] for x in ("sin", "cos", "decay")) + 3 * third + between  # type: ignore[index]
    return total + 3 * third + out + (between if kernel.startswith("retention_h_") else 0)


def occupancy(machine: Machine, registers: int, shared_bytes: int, threads: int) -> int:
    """Blocks that fit one SM."""
    warps = threads // WARP
    per_warp = -(-registers * WARP // REGISTER_STEP) * REGISTER_STEP
    by_registers = REGISTERS // per_warp // warps
    by_shared = machine.shared_bytes // (shared_bytes + RESERVED_SHARED)
    return min(machine.blocks, machine.warps // warps, by_registers, by_shared)


class Library:
    """The library for one SM: which cubin a launch was, and what it costs."""

    def __init__(self, sm: int, output: Path, cache: Path, scratch: Path):
        self.sm, self.machine = sm, MACHINES[sm]
        build.build_libraries(output / f"sm{sm}", [sm], ["x86_64"], None, cache)
        path = load.library_path(output / f"sm{sm}")
        self.device = Device(path, sm, scratch, cxx.find_headers(cache, None), cache / "kernels")
        self.memory = self.device.memory
        assembler = compile.find_cuda_13_assembler()
        self.names: dict[str, tuple[str, Path]] = {}
        for variant in (x for make in build.OPS.values() for x in make()):
            ptx = cache / "kernels" / f"{compile.image_key(variant, sm, assembler)}.ptx"
            text = hashlib.sha256(ptx.read_text().encode()).hexdigest()
            self.names[text] = (variant.name, ptx.with_suffix(".cubin"))

    def cost(self, call: Call, launch: Launch) -> dict[str, Any]:
        name, cubin = self.names[launch.image]
        usage = sass.usage(cubin)
        flow = sass.flow_of(parse_kernel(cubin.with_suffix(".ptx").read_text()), launch.visits)
        instructions = sass.executed(sass.listing(cubin), flow)
        blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
        warps = launch.threads_per_block // WARP
        shared = launch.shared_bytes + usage.static_shared_bytes
        fit = occupancy(self.machine, usage.registers, shared, launch.threads_per_block)
        per_second = self.machine.sms * ISSUE_PER_CLOCK * self.machine.clock_hz
        moved = moved_bytes(call, name)
        issue_us, byte_us = 1e6 * blocks * warps * instructions / per_second, 1e6 * moved / self.machine.bytes_per_s
        return {
            "kernel": name, "blocks": blocks, "warps_a_block": warps, "instructions_a_warp": instructions,
            "ptx_instructions": launch.executed, "bytes": moved, "issue_us": round(issue_us, 3),
            "byte_us": round(byte_us, 3), "issue_over_bytes": round(issue_us / byte_us, 3),
            "blocks_a_sm": round(blocks / self.machine.sms, 2), "registers": usage.registers, "shared_bytes": shared,
            "blocks_that_fit_a_sm": fit, "warps_that_fit_a_sm": fit * warps, "spilled_bytes": usage.spilled_bytes,
            "two_byte_loads": sass.narrow_loads(cubin),
        }  # fmt: skip

    def tactics(self, call: Call) -> list[int]:
        """As the plugin offers them to a builder, the first first."""
        self.device.memory = self.memory
        half = np.dtype(np.float16)
        if call.op == "retention":
            b, h, w, n, d = call.shape
            c, name = n * d, "Retention"
            attributes: dict[str, Any] = {"num_heads": n, "decay": [-0.5] * n, "decomposed": int(call.form[0])}
            shapes = [(-1, h, w, 3 * c), (h * w, d), (h * w, d), (c, 1, 5, 5), (c,)]
        else:
            b, h, w, c = call.shape
            name = op_type_of(*call.form, call.is_int8)
            attributes = {"epsilon": 1e-6} if call.form[1] else {}
            shapes = [(-1, h, w, c), (3, 3, c), (c,)]
            shapes += [(-1, h, w, c)] * call.form[0] + [(c,), (c,)] * call.form[1]
        attributes |= {"channels": c} | ({"output_scale": OUTPUT_SCALE} if call.is_int8 else {})
        outputs = [(-1, h, w, c)] * (1 + (call.op == "depthwise" and call.form[1]))
        inputs = [(shape, half) for shape in shapes]
        plugin = Plugin(self.device, name, attributes, inputs, outputs, opt_batch=b, max_batch=b)
        plugin.close()
        return plugin.tactics

    def rows(self, calls: list[Call]) -> list[dict[str, Any]]:
        rows = []
        for call in calls:
            for i, tactic in enumerate(self.tactics(call)):
                for launch in launches_of(self.device, call, tactic):
                    row = {"op": call.op, "what": call.label, "count": call.count, "tactic": tactic, "is_first": i == 0}
                    rows.append(row | self.cost(call, launch))
        return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Sums over the network, of the first tactics."""
    found: dict[str, float] = {}
    for op in ("retention", "depthwise"):
        of_op = [x for x in rows if x["op"] == op and x["is_first"]]
        issue, moved = (sum(x["count"] * x[name] for x in of_op) for name in ("issue_us", "byte_us"))
        found[f"{op}_issue_over_bytes"] = round(issue / moved, 3)
    return found | {"spilled_bytes": max(x["spilled_bytes"] for x in rows)}


def table(rows: list[dict[str, Any]]) -> str:
    """The first tactics as lines of text."""
    lines = [
        f"{'what':28s} {'kernel':44s} blocks  warps  instr  issue us  byte us  ratio  regs  shared  fit  spill  2B"
    ]
    for x in rows:
        lines.append(
            f"{x['what']:28s} {x['kernel'] + ' *' * x['is_first']:44s} {x['blocks']:6d} {x['warps_a_block']:6d} "
            f"{x['instructions_a_warp']:6d} {x['issue_us']:9.1f} {x['byte_us']:8.1f} {x['issue_over_bytes']:6.2f} "
            f"{x['registers']:5d} {x['shared_bytes']:7d} {x['warps_that_fit_a_sm']:4d} {x['spilled_bytes']:6d} "
            f"{x['two_byte_loads']:3d}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="rmt_s", help="of the sums (rmt_s)")
    parser.add_argument("--batch", type=int, default=64, help="(64)")
    parser.add_argument("--int8-outputs", action="store_true", help="what a Linear layer reads leaves in 8 bits")
    parser.add_argument("--sms", type=int, nargs="+", default=list(MACHINES), choices=list(MACHINES))
    parser.add_argument("--cache", type=Path, default=Path("build/plugin-cache"), help="of the plugin library's build")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the record there")
    args = parser.parse_args()
    result: dict[str, Any] = {"variant": args.variant, "batch": args.batch}
    details: dict[str, Any] = {}
    for sm in args.sms:
        with tempfile.TemporaryDirectory() as scratch:
            library = Library(sm, args.cache.parent / "kernel-cost", args.cache.absolute(), Path(scratch))
            rows = library.rows(calls_of(args.variant, args.batch, args.int8_outputs))
        print(f"\nSM {sm / 10}, {library.machine.name}; * the first tactic\n{table(rows)}")
        result[f"sm_{sm}"] = summary(rows)
        details[f"sm_{sm}"] = rows
    if args.record:
        machines = {f"sm_{sm}": MACHINES[sm].__dict__ for sm in args.sms}
        record = header("kernel_cost") | {"input_size": INPUT_SIZE, "int8_outputs": args.int8_outputs, **result}
        args.record.write_text(json.dumps(record | {"machines": machines, "kernels": details}, indent=1) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
