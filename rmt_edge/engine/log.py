"""What a TensorRT builder tells while it builds: its log and its progress.

The TensorRT module is passed in, so that one file serves every backend.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from rmt_edge.engine.layers import HEAD
from rmt_edge.progress import progress_bar

logger = logging.getLogger(__name__)


def log_for(trt: ModuleType) -> Any:
    """The process's logger for a TensorRT module, emptied: warnings and errors for messages, the layers for the record.

    One for all builds, because TensorRT keeps the first that a process gives it and ignores every later one. The rest
    of what it says goes: at the level that lists the layers a build may say hundreds of megabytes.
    """
    if trt not in _LOGS:
        _LOGS[trt] = _new_log(trt)
    log = _LOGS[trt]
    log.messages.clear()
    return log


_LOGS: dict[ModuleType, Any] = {}


def _new_log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING) or HEAD in message:
                self.messages.append((int(severity), message))
            if severity == trt.ILogger.WARNING:
                logger.debug("%s", message)

        def messages_from(self, severity: Any) -> list[str]:
            return [text for level, text in self.messages if level <= int(severity)]

    return Log()


@contextmanager
def progress(trt: ModuleType, config: Any, title: str) -> Iterator[threading.Event]:
    """A progress bar over the builder's phases; the event is set where Ctrl-C stopped the build.

    The builder is C++: an exception in its callback would end the process, so Ctrl-C is taken as a flag here and the
    builder is told to stop at its next step.
    """
    interrupted = threading.Event()
    bar = progress_bar(total=0, desc=f"build {title}", unit="step", leave=False)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.whole: str | None = None  # the phase that holds all others; its steps are the bar's

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.whole = phase
                bar.reset(steps)
            bar.set_postfix_str(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            bar.update(phase == self.whole)
            return not interrupted.is_set()

        def phase_finish(self, phase: str) -> None:
            bar.refresh()

    def stop(signum: int, frame: FrameType | None) -> None:
        interrupted.set()

    config.progress_monitor = monitor = Monitor()
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, stop) if in_main_thread else None
    try:
        yield interrupted
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, previous)
        bar.close()
        del monitor
