"""The command that runs on many boards at once, over the user's own ssh."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rmt_edge.cli.options import add_command
from rmt_edge.errors import CheckFailedError, RmtEdgeError

OUTPUT = Path("fleet")
ACTIONS = ("run", "status", "fetch", "stop")
STEPS = ("build", "validate", "bench", "verdict")  # of fleet/plan.py, which a test compares


def fleet(args: argparse.Namespace) -> None:
    """Build, validate and measure a bundle on many boards over ssh, and put their records on one page.

    run begins or goes on; status, fetch and stop are for runs that go on by themselves. Exit status: 1 if a limit of
    accuracy is not kept on a board, 2 if a board failed.
    """
    from rmt_edge.fleet import look
    from rmt_edge.fleet.boards import read_boards
    from rmt_edge.fleet.fleet import bundle_of, open_fleet
    from rmt_edge.fleet.plan import Options, read_cargo
    from rmt_edge.fleet.run import run_fleet

    boards = read_boards(args.file, args.boards)
    given: dict[str, Any] = {name: getattr(args, name) for name in Options.__dataclass_fields__}
    given = {key: tuple(x) if isinstance(x, list) else x for key, x in given.items() if x is not None}
    options = Options(**given) if given else None
    cargo = read_cargo(args.bundle or bundle_of(args.output), args.wheel, is_sent=args.action == "run")
    opened = open_fleet(boards, options, cargo, args.output, args.again)
    if args.action == "run":
        modes = {board.name: list(filter(None, opened.options.modes_of(board))) for board in boards}
        _ask_for_sudo({name: found for name, found in modes.items() if found}, args.yes)
        wrong = run_fleet(opened)
    elif args.action == "stop":
        wrong = look.stop(opened, args.others)
    else:
        wrong = look.status(opened) if args.action == "status" else look.fetch(opened)
    if args.action in ("run", "fetch"):
        _write_page(opened)
    if failed := {name: text for name, text in wrong.items() if text}:
        what = f"{len(failed)} of {len(boards)} boards failed:\n\n" + "\n\n".join(failed.values())
        raise RmtEdgeError(what if len(boards) > 1 else next(iter(failed.values())))
    worse = [x.name for x in boards if opened.known(x).get("is_within_limits") is False]
    if args.action == "run" and worse:
        raise CheckFailedError(
            f"A limit of accuracy is not kept on {', '.join(worse)}.", do="The page has the numbers."
        )


def _write_page(opened) -> None:
    from rmt_edge.fleet.page import write_page

    print(write_page(opened))


def _ask_for_sudo(modes: dict[str, list[str]], is_agreed: bool) -> None:
    """Ask once before power modes are set: that takes sudo on the boards."""
    if not modes or is_agreed:
        return
    lines = "\n".join(f"  {name}: {', '.join(found)}" for name, found in modes.items())
    if not sys.stdin.isatty():
        raise RmtEdgeError(
            f"Power modes are set by sudo on the boards:\n{lines}", "nobody is here to be asked.", "Agree to it: --yes"
        )
    question = f"`sudo nvpmodel -m` will set these power modes, and the present ones after:\n{lines}\nGo on? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RmtEdgeError("Nothing was run.")


def add_commands(commands) -> None:
    """fleet."""
    sub = add_command(commands, fleet)
    sub.add_argument("file", type=Path, metavar="BOARDS.toml", help='a table a board: [orin-1], ssh = "user@host"')
    sub.add_argument("action", choices=ACTIONS, help="begin or go on; look; bring records back; end")
    sub.add_argument("bundle", type=Path, nargs="?", help="a file that `pack` wrote (of the one run in --output)")
    sub.add_argument("--boards", nargs="+", metavar="NAME", help="only these (all)")
    sub.add_argument("--steps", nargs="+", choices=STEPS, help=f"and what they need before them ({' '.join(STEPS)})")
    sub.add_argument("--power-modes", nargs="+", metavar="MODE", help="measure in each, set by sudo nvpmodel")
    sub.add_argument("--yes", action="store_true", help="agree to sudo for the power modes")
    sub.add_argument("--recipes", nargs="+", help="only the models of these recipes (all)")
    sub.add_argument("--kernels", metavar="plugin|native|auto", help="as build has it")
    sub.add_argument("--batch", type=int, nargs="+", metavar="N", help="as bench has it")
    sub.add_argument("--duration", type=float, metavar="S", help="as bench has it")
    sub.add_argument("--max-drop", type=float, metavar="POINTS", help="as validate has it")
    sub.add_argument("--wheel", type=Path, metavar="FILE", help="rmt-edge's wheel for the boards (of `make wheel`)")
    sub.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help=f"where to write ({OUTPUT}/)")
    sub.add_argument("--again", action="store_true", help="begin anew, what is done included")
    sub.add_argument("--others", action="store_true", help="stop: also a run that another machine or folder began")
