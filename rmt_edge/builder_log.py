"""What a TensorRT builder tells while it builds: its log, the engine's layers in that log, its progress.

The TensorRT module is passed in, so that one file serves every backend.
"""

import logging
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


def layers_in(messages: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """The engine's layers out of the builder's log.

    Of each: name, kind (the builder's LayerType), the element types that it reads and writes, and the ONNX nodes in it.
    """
    lists = [text for _, text in messages if text.startswith("Layers:\n")]
    if len(lists) != 1:
        raise RuntimeError(f"expected one list of layers in the builder's log, found {len(lists)}")
    pattern = re.compile(
        r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?)"
        r", Outputs: (?P<outputs>.*?), TacticName: .*?(?:Metadata: (?P<nodes>.*))?$",
        re.MULTILINE,
    )
    layers = []
    for found in pattern.finditer(lists[0]):
        layers.append(
            {
                "name": found["name"],
                "kind": found["kind"],
                "reads": sorted(set(re.findall(r"Datatype: (\w+)", found["inputs"]))),
                "writes": sorted(set(re.findall(r"Datatype: (\w+)", found["outputs"]))),
                "onnx_nodes": re.findall(r"\[ONNX Layer: ([^\]]*)\]", found["nodes"] or ""),
            }
        )
    if not layers:
        raise RuntimeError("the builder's list of layers is empty or has another form than this parser knows")
    return layers


def log_for(trt: ModuleType) -> Any:
    """A logger that keeps everything: errors for messages, the layers for the record; warnings are for --verbose."""

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, message: str) -> None:
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
    bar = tqdm(total=0, desc=f"build {title}", unit="step", leave=False)

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
