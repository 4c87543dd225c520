"""Timing an engine: the order of calls against stand-ins for TensorRT and pycuda, since no GPU is at hand."""

from types import SimpleNamespace

import pytest

from rmt_edge import latency
from rmt_edge.artifact import ENGINE, write_manifest, written_whole
from rmt_edge.errors import RmtEdgeError


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "x.engine"
    with written_whole(path) as temporary:
        temporary.write_bytes(b"plan")
        write_manifest(temporary, path, kind=ENGINE, parents=[], recipe={}, details={}, seconds=0)
    return path


class Context:
    def __init__(self, calls):
        self.calls, self.shapes, self.addresses = calls, {"logits": (4, 10)}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7 and set(self.addresses) == {"images", "logits"}
        self.calls.append("run")
        return True


class Event:
    clock = 0.0

    def record(self, stream):
        Event.clock += 1.0
        self.at = Event.clock

    def synchronize(self):
        pass

    def time_since(self, start):
        return self.at - start.at


@pytest.fixture
def machine(monkeypatch):
    """TensorRT and pycuda that record what is asked of them."""
    calls, sizes = [], []
    context = Context(calls)
    opened = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: ("images", "logits")[i],
        get_tensor_mode=lambda name: "in" if name == "images" else "out",
        get_tensor_shape=lambda name: (-1, 3, 64, 64),
        create_execution_context=lambda: context,
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: opened if plan == b"plan" else None)
    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    trt = SimpleNamespace(Logger=logger, Runtime=lambda log: runtime, TensorIOMode=SimpleNamespace(INPUT="in"))
    gpu = SimpleNamespace(push=lambda: calls.append("push"), pop=lambda: calls.append("pop"))
    cuda = SimpleNamespace(
        init=lambda: None,
        Device=lambda i: SimpleNamespace(retain_primary_context=lambda: gpu),
        mem_alloc=lambda size: sizes.append(size) or len(sizes),
        memset_d8=lambda *_: None,
        Stream=lambda: SimpleNamespace(handle=7),
        Event=Event,
    )
    monkeypatch.setattr(latency, "load_cuda", lambda: cuda)
    return SimpleNamespace(trt=trt, calls=calls, sizes=sizes, context=context)


def test_the_median_of_the_runs_after_the_warm_up_is_taken(engine, machine):
    assert latency.median_latency_ms(engine, machine.trt, 4) == 1.0
    assert machine.calls == ["push"] + ["run"] * (latency.WARM_UP + latency.RUNS) + ["pop"]
    assert machine.sizes == [4 * 4 * 3 * 64 * 64, 4 * 4 * 10]
    assert machine.context.shapes["images"] == (4, 3, 64, 64)


def test_an_engine_of_another_gpu_is_refused(tmp_path, machine):
    path = tmp_path / "y.engine"
    with written_whole(path) as temporary:
        temporary.write_bytes(b"other")
        write_manifest(temporary, path, kind=ENGINE, parents=[], recipe={}, details={}, seconds=0)
    with pytest.raises(RmtEdgeError, match="does not open on this GPU"):
        latency.median_latency_ms(path, machine.trt, 1)
    assert machine.calls == ["push", "pop"]


def test_a_changed_engine_is_not_opened(engine, machine):
    engine.write_bytes(b"changed")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        latency.median_latency_ms(engine, machine.trt, 1)
    assert machine.calls == []


def test_missing_pycuda_says_what_to_do(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'pycuda'")

    monkeypatch.setattr(latency.importlib, "import_module", missing)
    with pytest.raises(RmtEdgeError, match=r"pycuda cannot be imported[\s\S]*pip install pycuda"):
        latency.load_cuda()
