"""Build an engine of a model file with TensorRT-RTX, for SM 8.6. A script: it runs in a process of its own.

python build_with_rtx.py MODEL LIBRARY      prints one line of JSON: what was parsed and built, and what was said
"""

import json
import sys
from pathlib import Path

import tensorrt_rtx_bindings as trt

from rmt_edge.plugin.load import load_plugins, take_last_error

assert not {"torch", "triton"} & set(sys.modules), "the device has neither"


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []
        self.errors = []

    def log(self, severity, message):
        self.lines.append(message)
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(message)


def build(builder, network):
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        shape = list(network.get_input(i).shape)[1:]
        profile.set_shape(network.get_input(i).name, [1, *shape], [8, *shape], [8, *shape])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return builder.build_serialized_network(network, config)


logger, library = Logger(), Path(sys.argv[2])
load_plugins(trt, library)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
engine, kinds = None, []
if parser.parse(Path(sys.argv[1]).read_bytes()):
    kinds = [str(network.get_layer(i).type) for i in range(network.num_layers)]
    engine = build(builder, network)
layers = [x for line in logger.lines for x in line.splitlines() if x.startswith("Name: ")]
found = {
    "plugin_layers": sum("PLUGIN_V3" in x for x in kinds),
    "engine_bytes": engine.nbytes if engine else 0,
    "layers": layers,
    "error": take_last_error(library),
    "errors": logger.errors,
    "parser_errors": [parser.get_error(i).desc() for i in range(parser.num_errors)],
}
print(json.dumps(found))
