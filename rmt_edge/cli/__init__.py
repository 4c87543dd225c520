"""The command line: one function per command, progress on stderr, the path of the result on stdout.

A file of this package holds the commands of one place of use. Each command imports what it needs when it runs, so that
a device needs neither torch nor modelopt.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rmt_edge import __version__
from rmt_edge.cli import accuracy, bench, build, bundle, devices, estimate, fleet, gate, pipeline, predict
from rmt_edge.errors import CheckFailedError, RmtEdgeError

# Modules with commands, in the order of the help.
COMMANDS = (pipeline, build, bundle, devices, bench, fleet, estimate, accuracy, gate, predict)
# Exit statuses. argparse ends with 2 for a command line that it cannot read, too.
CHECK_FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130
logger = logging.getLogger("rmt_edge")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rmt-edge",
        description="Takes a trained RMT to the device it will run on: quantise, export, build, validate, report.",
        epilog="Start with: rmt-edge deploy CHECKPOINT --calibration IMAGES --data IMAGES. README.md has the rest. "
        "Exit status: 0, 1 where a limit of accuracy, latency or size is not kept, 2 for a mistake in the call or its "
        "files, 130 after Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"rmt-edge {__version__}")
    parser.add_argument("--verbose", action="store_true", help="also log what the TensorRT builder warns of")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_commands(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 1 for a check that failed, 2 for a mistake of the user, 130 for Ctrl-C."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.DEBUG if args.verbose else logging.INFO)
    interrupted = threading.Event()
    with _noticing_ctrl_c(interrupted):
        try:
            _run(args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return USER_ERROR
        except (Exception, KeyboardInterrupt) as error:
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                print("\nrmt-edge: interrupted. What was finished is whole; the rest was not written.", file=sys.stderr)
                return INTERRUPTED
            if not isinstance(error, RmtEdgeError):
                raise
            if args.traceback:
                traceback.print_exc()
            else:
                print(f"rmt-edge: {error}", file=sys.stderr)
            return CHECK_FAILED if isinstance(error, CheckFailedError) else USER_ERROR
    return 0


def _run(args: argparse.Namespace) -> None:
    """Run the command; a package that it needs and that is not installed becomes an error with what installs it."""
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        from rmt_edge.device.doctor import missing_packages
        from rmt_edge.device.machine import this_machine

        lack = missing_packages(args.run, error.name or "", this_machine())
        if lack is None:
            raise
        raise RmtEdgeError(lack.what, do=lack.do) from error


@contextmanager
def _noticing_ctrl_c(interrupted: threading.Event) -> Iterator[None]:
    """Set the event at Ctrl-C, then raise KeyboardInterrupt as usual.

    A library may turn that exception into one of its own (safetensors does); the event tells it from a fault.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
