"""A whole plugin-form ONNX file on the CPU: the C++ plugins and their kernels, ONNX Runtime for all other nodes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, helper, numpy_helper

from rmt_edge.ops.retention.onnx_function import DOMAIN
from tests.ptx.device import Device
from tests.ptx.plugin import Plugin

DYNAMIC = -1


class PluginGraph:
    """Runs the nodes in the file's order, one at a time, with what TensorRT would give each plugin.

    max_batch: of the optimisation profile; tactic: which of a plugin's tactics every node takes, by position, or None
    to let the plugins choose.
    """

    def __init__(self, path: Path, device: Device, max_batch: int):
        self.model = onnx.load(path)
        self.device, self.max_batch = device, max_batch
        self.constants = {x.name: numpy_helper.to_array(x) for x in self.model.graph.initializer}
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self.plugins: dict[int, Plugin] = {}

    def __call__(self, images: np.ndarray, tactic: int | None = None) -> np.ndarray:
        """(b, 3, h, w) float32 -> (b, classes)."""
        values = dict(self.constants) | {self.model.graph.input[0].name: images}
        for index, node in enumerate(self.model.graph.node):
            if node.domain == DOMAIN:
                outputs = self._run_plugin(index, node, values, tactic)
            else:
                outputs = self._run_operator(index, node, values)
            values.update(zip(node.output, outputs, strict=True))
        return values[self.model.graph.output[0].name]

    def _run_plugin(self, index: int, node: NodeProto, values: dict, tactic: int | None) -> list[np.ndarray]:
        arrays = [values[name] for name in node.input]
        if index not in self.plugins:
            attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
            inputs = [
                (x.shape if name in self.constants else (DYNAMIC, *x.shape[1:]), x.dtype)
                for name, x in zip(node.input, arrays, strict=True)
            ]
            shape = (DYNAMIC, *arrays[0].shape[1:3], attributes["channels"])
            shapes = [shape] * len(node.output)
            how = {"opt_batch": 1, "max_batch": self.max_batch}
            self.plugins[index] = Plugin(self.device, node.op_type, attributes, inputs, shapes, **how)
        plugin = self.plugins[index]
        return plugin(arrays, 0 if tactic is None else plugin.tactics[tactic % len(plugin.tactics)])

    def _run_operator(self, index: int, node: NodeProto, values: dict) -> list[np.ndarray]:
        given = [name for name in dict.fromkeys(node.input) if name and name not in self.constants]
        if index not in self._sessions:
            self._sessions[index] = self._session(node, given, values)
        return self._sessions[index].run(None, {name: values[name] for name in given})

    def _session(self, node: NodeProto, given: list[str], values: dict) -> onnxruntime.InferenceSession:
        """A model of that node alone."""
        constants = [x for x in self.model.graph.initializer if x.name in node.input]
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
            for name in given
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "node", inputs, outputs, constants)
        version = {"opset_imports": self.model.opset_import, "ir_version": self.model.ir_version}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        return onnxruntime.InferenceSession(helper.make_model(graph, **version).SerializeToString(), options)

    def close(self) -> None:
        for plugin in self.plugins.values():
            plugin.close()
