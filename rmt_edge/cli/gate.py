"""The commands that keep results and hold later ones to them."""

import argparse
from pathlib import Path

from rmt_edge.cli.options import OUTPUT, add_command
from rmt_edge.errors import CheckFailedError


def baseline(args: argparse.Namespace) -> None:
    """Write what a folder of results reached as the baseline for later ones."""
    from rmt_edge.gate.baseline import write_baseline

    print(write_baseline(args.folder, args.output))


def gate(args: argparse.Namespace) -> None:
    """Compare results with a baseline; exit 1 if accuracy, latency or size are worse by more than the limits."""
    from rmt_edge.gate.gate import Limits, compare, table

    given = {name: getattr(args, name) for name in Limits.__dataclass_fields__}
    rows = compare(args.baseline, args.results, Limits(**{k: v for k, v in given.items() if v is not None}))
    if any(row.is_worse for row in rows):
        raise CheckFailedError(f"{args.results} is worse than the baseline {args.baseline}:\n\n{table(rows)}")
    print(table(rows))


def add_commands(commands) -> None:
    """baseline, gate."""
    sub = add_command(commands, baseline)
    sub.add_argument("folder", type=Path, nargs="?", default=OUTPUT, help=f"where the other commands wrote ({OUTPUT}/)")
    sub.add_argument("--output", type=Path, metavar="FILE", help="where to write (baseline.json in the folder)")
    sub = add_command(commands, gate)
    sub.add_argument("results", type=Path, help="a folder of results, or one predictions file")
    sub.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="a file that `baseline` wrote")
    sub.add_argument("--max-drop", type=float, metavar="POINTS", help="of top-1, AP or mIoU that may be lost (0.5)")
    sub.add_argument("--confidence", type=float, metavar="P", help="hold the upper end of the drop's interval to it")
    sub.add_argument("--max-latency-ratio", type=float, metavar="R", help="now over baseline, same machine (1.1)")
    sub.add_argument("--max-size-ratio", type=float, metavar="R", help="now over baseline (1.05)")
