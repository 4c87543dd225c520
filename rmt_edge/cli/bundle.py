"""The commands that carry models to a device: pack on the workstation, unpack on the device."""

import argparse
import sys
from pathlib import Path

from rmt_edge.cli.options import OUTPUT, add_command, add_output, add_require_signed, add_trust_libraries


def pack(args: argparse.Namespace) -> None:
    """Put exported models, plugin libraries and a validation subset into one file for a device."""
    from rmt_edge.bundle.pack import ARCHITECTURES
    from rmt_edge.bundle.pack import pack as run
    from rmt_edge.plugin.load import LIBRARIES

    architectures = () if args.without_libraries else tuple(dict.fromkeys(args.arch or ARCHITECTURES))
    libraries = args.libraries or LIBRARIES
    sources = args.sources or [OUTPUT]
    path = run(
        sources,
        args.checkpoint,
        args.data,
        libraries,
        args.output,
        args.images,
        args.recipes,
        architectures,
        args.labels,
        args.trust_libraries,
        args.sign,
        args.annotations,
    )
    print(path)


def unpack(args: argparse.Namespace) -> None:
    """Check a bundle and unpack it, all of it or nothing."""
    from rmt_edge.bundle.bundle import unpack as run

    check_signer(args.bundle, args.require_signed)
    print(run(args.bundle, args.output))


def check_signer(bundle: Path, keys: Path | None) -> None:
    """Refuse a bundle that is not signed with one of the keys, if keys are given."""
    if keys is not None:
        from rmt_edge.bundle.signature import check_signature

        print(f"{bundle} is signed by {check_signature(bundle, keys)}", file=sys.stderr)


def add_commands(commands) -> None:
    """pack, unpack."""
    sub = add_command(commands, pack)
    sub.add_argument(
        "sources", type=Path, nargs="*", metavar="FOLDER_OR_ONNX", help=f"what `export` wrote (all of {OUTPUT}/)"
    )
    sub.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint they were made from")
    sub.add_argument("--data", type=Path, required=True, metavar="IMAGES", help="labelled images: the subset's source")
    sub.add_argument("--labels", type=Path, metavar="FILE", help="labels of a flat folder: lines `name label`")
    sub.add_argument("--annotations", type=Path, metavar="PATH", help="COCO's JSON file, or a folder of label maps")
    sub.add_argument("--images", type=int, metavar="N", help="images of the validation subset (512)")
    sub.add_argument("--recipes", nargs="+", help="only the models of these recipes")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="the plugin libraries (build/plugin)")
    add_trust_libraries(sub)
    sub.add_argument("--sign", type=Path, metavar="KEY", help="an SSH key: writes <bundle>.sig")
    sub.add_argument(
        "--arch", choices=("x86_64", "aarch64"), action="append", help="processors of the libraries (both)"
    )
    sub.add_argument("--without-libraries", action="store_true", help="for --kernels native alone")
    sub.add_argument("--output", type=Path, metavar="FILE", help="the bundle (<checkpoint>.rmtedge beside the models)")
    sub = add_command(commands, unpack)
    sub.add_argument("bundle", type=Path, help="a file that `pack` wrote")
    add_require_signed(sub)
    add_output(sub, None)
