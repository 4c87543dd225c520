"""The commands that make engines and the plugins in them."""

import argparse
from pathlib import Path

from rmt_edge.bundle.bundle import INDEX, LIBRARIES, SUFFIX, chosen_models, listed_model, read_folder, unpack
from rmt_edge.cli.bundle import check_signer
from rmt_edge.cli.options import add_command, add_kernels, add_output, add_require_signed
from rmt_edge.device.profile import load_profile
from rmt_edge.errors import RmtEdgeError


def build(args: argparse.Namespace) -> None:
    """Build the TensorRT engine of an ONNX file, or those of all models of a bundle, for a device."""
    if args.via == "torch-tensorrt":
        _build_torch_tensorrt(args)
        return
    from rmt_edge.engine.build import build as run

    profile = load_profile(args.device)
    is_packed = args.source.suffix == SUFFIX
    if args.require_signed and not is_packed:
        raise RmtEdgeError("--require-signed is for a bundle.", f"{args.source} is none.", "Pass the .rmtedge file.")
    if is_packed or args.source.is_dir():
        if is_packed:
            check_signer(args.source, args.require_signed)
        folder = unpack(args.source, args.output) if is_packed else args.source
        output = None if is_packed else args.output
        libraries = args.libraries or folder / LIBRARIES
        index = read_folder(folder)
        for model in chosen_models(index, args.recipes):
            file = listed_model(folder, index, model.onnx)
            print(run(file, profile, output, args.kernels, libraries, args.trust_libraries).path)
        return
    if args.recipes:
        raise RmtEdgeError("--recipes chooses among a bundle's models.", f"{args.source} is one model.")
    source = args.source
    if (source.parent / INDEX).is_file():
        source = listed_model(source.parent, read_folder(source.parent), source.name)
    print(run(source, profile, args.output, args.kernels, args.libraries, args.trust_libraries).path)


def _build_torch_tensorrt(args: argparse.Namespace) -> None:
    """The second road, which needs PyTorch: apart from `build`, which a device runs without."""
    from rmt_edge.engine.torch_trt import build_torch_tensorrt

    if args.recipes:
        raise RmtEdgeError("--recipes chooses among a bundle's models.", f"{args.source} is one model.")
    profile = load_profile(args.device)
    print(build_torch_tensorrt(args.source, profile, args.output, args.libraries, args.trust_libraries).path)


def plugin(args: argparse.Namespace) -> None:
    """Build the library of TensorRT plugins: every GPU and both processors, or those named."""
    from rmt_edge.plugin.build import build_libraries

    for path in build_libraries(args.output, args.sm, args.arch, args.headers):
        print(path)


def add_commands(commands) -> None:
    """build, plugin."""
    sub = add_command(commands, build)
    sub.add_argument("source", type=Path, help="a file that `export` or `pack` wrote, or an unpacked bundle")
    sub.add_argument("--recipes", nargs="+", help="of a bundle's models only those of these recipes (all)")
    add_kernels(sub)
    add_require_signed(sub)
    add_output(sub, None)
    sub.add_argument(
        "--via",
        choices=("onnx", "torch-tensorrt"),
        default="onnx",
        help="torch-tensorrt: a PyTorch module from the .safetensors that `quantize` wrote, with the plugins (onnx)",
    )
    sub = add_command(commands, plugin)
    sub.add_argument("action", choices=("build",), help="build: compile the kernels and link the libraries")
    sub.add_argument("--sm", type=int, action="append", help="GPU generation, 87 for SM 8.7; repeat for several")
    sub.add_argument("--arch", choices=("x86_64", "aarch64"), action="append", help="processor; repeat for both")
    sub.add_argument("--headers", type=Path, help="a folder with NvInfer.h of TensorRT 10.3 or later")
    sub.add_argument("--output", type=Path, default=Path("build/plugin"), metavar="FOLDER", help="build/plugin")
