"""TensorRT on paper: a module with the names that one version's Python bindings have, and no other.

The names come from X.pyi beside this file, which record.py wrote from NVIDIA's bindings. What a version lacks raises
AttributeError here as it does there, on reading and on setting. The behaviour is as little as a build needs: it parses
with onnx, lists a layer per node, and notes what the configuration was told.
"""

import ast
import enum
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

FOLDER = Path(__file__).parent
VERSIONS = ("10.3", "10.13", "11.4")
SEVERITIES = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}


@dataclass
class Scenario:
    """How this TensorRT behaves, and what it was seen to be told.

    lists: where its layers can be had: "log", "inspector" or "". cache_prefix: what a timing cache must start with.
    """

    lists: str = "log"
    cache_prefix: bytes = b"timed"
    largest_workspace: int = 1 << 40
    fails: bool = False
    configs: list[Any] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)
    temporary_folders: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


def standin(version: str) -> ModuleType:
    """A module `tensorrt` with the API of a version; its `scenario` can be changed."""
    tree = ast.parse((FOLDER / f"{version}.pyi").read_text())
    module = ModuleType("tensorrt")
    module.scenario = Scenario()  # type: ignore[attr-defined]
    for node in tree.body:
        if isinstance(node, ast.Assign):
            setattr(module, ast.unparse(node.targets[0]), ast.literal_eval(node.value))
        elif isinstance(node, ast.ClassDef):
            setattr(module, node.name, _class(node, module))
    if any(isinstance(node, ast.FunctionDef) and node.name == "get_plugin_registry" for node in tree.body):
        module.get_plugin_registry = lambda: module.IPluginRegistry()  # type: ignore[attr-defined]
    return module


def _class(node: ast.ClassDef, module: ModuleType) -> type:
    names = {x.name for x in node.body if isinstance(x, ast.FunctionDef)}
    values = {ast.unparse(x.target): ast.unparse(x.annotation) for x in node.body if isinstance(x, ast.AnnAssign)}
    members = [name for name, kind in values.items() if kind == f"ClassVar[{node.name}]"]
    if members:
        return enum.IntEnum(node.name, {name: index for index, name in enumerate(members)})
    parts = BEHAVIOUR.get(node.name, {})
    unknown = {name for name in parts if not name.startswith("_")} - names - set(values)
    body = {name: part for name, part in parts.items() if name not in unknown}
    for name in names - set(body):
        if not name.startswith("_"):
            body[name] = _unknown(node.name, name)
    body |= {"_module": module, "_names": names | set(values), "__setattr__": _checked_setattr}
    if node.name in ("ILogger", "Logger"):
        body |= {key: value for key, value in SEVERITIES.items() if key in values}
    return type(node.name, (), body)


def _unknown(of: str, name: str) -> Any:
    def method(self: Any, *arguments: Any) -> None:
        raise NotImplementedError(f"the stand-in has no behaviour for {of}.{name}")

    return method


def _checked_setattr(self: Any, name: str, value: Any) -> None:
    """pybind11 objects take no attribute that their class does not have; a Python class derived from one does."""
    known = self._names
    if name not in known and not name.startswith("_") and type(self).__qualname__ in BEHAVIOUR:
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
    object.__setattr__(self, name, value)


def _keep(*names: str) -> Any:
    def init(self: Any, *arguments: Any) -> None:
        for name, value in zip(names, arguments, strict=True):
            object.__setattr__(self, "_" + name, value)

    return init


def _build(self: Any, network: Any, config: Any) -> Any:
    scenario = self._module.scenario
    scenario.configs.append(config)
    scenario.temporary_folders.append(os.environ["TMPDIR"])
    monitor = config.progress_monitor
    monitor.phase_start("Building", None, 1)
    monitor.step_complete("Building", 0)
    monitor.phase_finish("Building")
    log = self._log
    if scenario.fails:
        log.log(SEVERITIES["ERROR"], "IBuilder::buildSerializedNetwork: Error Code 10: no implementation for node x")
        return None
    if config._cache is not None:
        config._cache._content += b", and once more"
    if scenario.lists == "log":
        log.log(SEVERITIES["VERBOSE"], "Layers:\n" + "\n".join(_log_line(x) for x in network._nodes))
    return memoryview(b"plan of " + network._name.encode() + json.dumps(network._nodes).encode())


def _log_line(node: dict[str, str]) -> str:
    """In the form of TensorRT 10.10's log (NVIDIA/TensorRT issue 4397), one with and one without a tactic."""
    end = ", TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {name}]" if node["kind"] == "kgen" else ""
    return (
        "Name: {name}, LayerType: {kind}, Inputs: [ {{ Name: a, Dimensions: [1,40], Format/Datatype: Half }}], "
        "Outputs: [ {{ Name: b, Dimensions: [1,40], Format/Datatype: Half }}]" + end
    ).format(**node)


def _parse(self: Any, model: bytes, path: str = "") -> bool:
    found = onnx.load_from_string(model)
    self._network._take(found)
    self._errors = [
        SimpleNamespace(node_operator=lambda x=x: x.op_type, node_name=lambda x=x: x.name, desc=lambda: "no importer")
        for x in found.graph.node
        if x.domain == "nobody"
    ]
    return not self._errors


def _take(self: Any, model: onnx.ModelProto) -> None:
    plugins = {"rmt_edge"} if not model.functions else set()
    object.__setattr__(self, "_name", model.graph.name)
    object.__setattr__(
        self,
        "_nodes",
        [{"name": x.name, "kind": "PluginV3" if x.domain in plugins else "kgen"} for x in model.graph.node],
    )
    image = model.graph.input[0]
    shape = tuple(d.dim_value or -1 for d in image.type.tensor_type.shape.dim)
    object.__setattr__(self, "_image", SimpleNamespace(name=image.name, shape=shape))


def _layer(self: Any, index: int) -> Any:
    types = self._module.LayerType
    is_plugin = self._nodes[index]["kind"] == "PluginV3"
    return SimpleNamespace(type=types.PLUGIN_V3 if is_plugin else types.IDENTITY)


def _limit(self: Any, pool: Any, size: int) -> None:
    self._pools[pool] = min(size, self._module.scenario.largest_workspace)


def _config_init(self: Any) -> None:
    for name, value in (("_pools", {}), ("_flags", []), ("_profiles", []), ("_cache", None)):
        object.__setattr__(self, name, value)


def _create_cache(self: Any, content: bytes) -> Any:
    """A cache of that content; None, as pybind11 gives a null pointer, if it is of another device."""
    scenario = self._module.scenario
    if content and not content.startswith(scenario.cache_prefix):
        return None
    scenario.caches.append(content)
    cache = self._module.ITimingCache()
    object.__setattr__(cache, "_content", content or scenario.cache_prefix)
    return cache


def _set_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
    object.__setattr__(self, "_cache", cache)
    return not ignore_mismatch


def _deserialize(self: Any, plan: Any) -> Any:
    assert Path(self.temporary_directory).is_dir()
    if self._module.scenario.lists != "inspector":
        return None
    engine = self._module.ICudaEngine()
    object.__setattr__(engine, "_plan", bytes(plan))
    return engine


def _inspector(self: Any) -> Any:
    inspector = self._module.EngineInspector()
    object.__setattr__(inspector, "_plan", self._plan)
    return inspector


def _information(self: Any, form: Any) -> str:
    """In the form that trtexec --exportLayerInfo writes (NVIDIA/TensorRT issue 2418)."""
    assert form == self._module.LayerInformationFormat.JSON
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1], "Format/Datatype": "Row major linear FP16 format"}
    return json.dumps(
        {
            "Layers": [
                {"Name": x["name"], "LayerType": x["kind"], "Inputs": [tensor], "Outputs": [tensor], "TacticName": "t"}
                for x in json.loads(self._plan[self._plan.index(b"[") :])
            ],
            "Bindings": ["images", "logits"],
        }
    )


BEHAVIOUR: dict[str, dict[str, Any]] = {
    "Builder": {
        "__init__": _keep("log"),
        "create_network": lambda self, flags=0: _made(self._module.INetworkDefinition(), flags=flags),
        "create_builder_config": lambda self: self._module.IBuilderConfig(),
        "create_optimization_profile": lambda self: self._module.IOptimizationProfile(),
        "build_serialized_network": _build,
    },
    "INetworkDefinition": {
        "_take": _take,
        "get_input": lambda self, index: self._image,
        "get_layer": _layer,
        "num_layers": property(lambda self: len(self._nodes)),
        "flags": property(lambda self: self._flags),
    },
    "IOptimizationProfile": {
        "set_shape": lambda self, name, low, best, high: object.__setattr__(self, "_shape", (name, low, best, high))
    },
    "IBuilderConfig": {
        "__init__": _config_init,
        "set_flag": lambda self, flag: self._flags.append(flag),
        "set_memory_pool_limit": _limit,
        "get_memory_pool_limit": lambda self, pool: self._pools[pool],
        "add_optimization_profile": lambda self, profile: self._profiles.append(profile) or 0,
        "create_timing_cache": _create_cache,
        "set_timing_cache": _set_cache,
        "get_timing_cache": lambda self: self._cache,
    },
    "ITimingCache": {"serialize": lambda self: memoryview(self._content)},
    "OnnxParser": {
        "__init__": _keep("network", "log"),
        "parse": _parse,
        "num_errors": property(lambda self: len(self._errors)),
        "get_error": lambda self, index: self._errors[index],
    },
    "ILogger": {"__init__": lambda self: None},
    "IProgressMonitor": {"__init__": lambda self: None},
    "Runtime": {"__init__": _keep("log"), "deserialize_cuda_engine": _deserialize},
    "ICudaEngine": {"create_engine_inspector": _inspector},
    "EngineInspector": {"get_engine_information": _information},
    "IPluginRegistry": {
        "load_library": lambda self, path: self._module.scenario.loaded.append(path) or object(),
        "get_creator": lambda self, *name: object() if self._module.scenario.loaded else None,
    },
}


def _made(thing: Any, **values: Any) -> Any:
    for name, value in values.items():
        object.__setattr__(thing, "_" + name, value)
    return thing
