"""Record the Python API of a TensorRT version from NVIDIA's own bindings, without TensorRT: X.pyi in this folder.

    pip download --no-deps tensorrt-cu12-bindings==10.3.0        # unpacked (unzip) into FOLDER
    python -m tests.tensorrt_api.record FOLDER tests/tensorrt_api/10.3.pyi

The bindings link three libraries that the package lacks. Empty ones with the few functions that they import stand in:
nothing of them is called, the module is only looked at, by mypy's stubgen. What rmt-edge does not use is left out.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "DataType", "EngineInspector", "HardwareCompatibilityLevel",
    "IBuilderConfig", "IConstantLayer", "ICudaEngine", "IDequantizeLayer", "IExecutionContext", "IHostMemory",
    "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IPluginCreatorV3One", "IPluginRegistry",
    "IPluginV3", "IPluginV3Layer", "IProgressMonitor", "IQuantizeLayer", "ITensor", "ITimingCache",
    "LayerInformationFormat", "LayerType", "Logger", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "OnnxParserFlag", "ParserError", "PluginField", "PluginFieldCollection", "PluginFieldCollection_",
    "PluginFieldType", "ProfilingVerbosity", "Runtime", "TempfileControlFlag", "TensorIOMode", "TensorRTPhase",
    "Weights",
)  # fmt: skip
FUNCTIONS = ("get_plugin_registry",)
IMPORTED = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
KNOWN = {"Any", "ClassVar", "overload", "property", "int", "str", "bool", "float", "bytes", "object", "None", "list",
         "tuple", "dict", "Callable", "memoryview"}  # fmt: skip


class _OnlyKnown(ast.NodeTransformer):
    """Annotations of what is left out become Any; integers that pybind11 takes as SupportsInt become int."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = self.visit(node.annotation)
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return node if node.id in KNOWN or node.id in CLASSES else ast.Name("Any")

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        text = ast.unparse(node)
        if text == "ILogger.Severity":
            return node
        return ast.Name({"typing.SupportsInt": "int", "typing.SupportsFloat": "float"}.get(text, "Any"))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value) == "collections.abc.Sequence":
            return ast.Subscript(ast.Name("list"), self.visit(node.slice))
        made = self.generic_visit(node)
        return ast.Name("Any") if ast.unparse(made).startswith("Any[") else made  # type: ignore[return-value]


def reduced(stub: str) -> str:
    """What rmt-edge uses of a stub file."""
    lines = [line for line in stub.splitlines() if not line.endswith(": ...") or _is_python(line.strip())]
    kept = []
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.ClassDef) and node.name in CLASSES:
            kept.append(_reduced_class(node))
        elif isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            kept.append(_OnlyKnown().visit(node))
    text = "\n\n".join(ast.unparse(ast.fix_missing_locations(x)) for x in kept)
    return re.sub(r"\n+(    )", r"\n\1", re.sub(r":\n +\.\.\.", ": ...", text))


def _is_python(signature: str) -> bool:
    """Some of pybind11's signatures are none: a default before an argument without one."""
    try:
        ast.parse(signature)
    except SyntaxError:
        return False
    return True


def _reduced_class(node: ast.ClassDef) -> ast.ClassDef:
    node.bases = [x for x in node.bases if ast.unparse(x) in CLASSES]
    body: list[ast.stmt] = []
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            body.append(_reduced_class(item))
            continue
        name = getattr(item, "name", None) or ast.unparse(getattr(item, "target", ast.Name("")))
        if name.startswith("_") and name not in ("__init__", "__int__", "__len__", "__getitem__"):
            continue
        body.append(_OnlyKnown().visit(item))
    if node.name == "IHostMemory":  # it is a buffer, which pybind11's docstrings do not say
        body += ast.parse("def __buffer__(self, flags: int) -> memoryview: ...").body
    node.body = body or [ast.Expr(ast.Constant(...))]
    return node


def record(folder: Path, package: str) -> str:
    """The reduced stub of the bindings in a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in IMPORTED))
        for major in (10, 11):
            for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
                library = f"lib{name}.so.{major}"
                command = ["gcc", "-shared", "-fPIC", str(source), f"-Wl,-soname,{library}", "-o"]
                subprocess.run([*command, str(Path(scratch) / library)], check=True)
        environment = os.environ | {"LD_LIBRARY_PATH": scratch, "PYTHONPATH": str(folder)}
        module = f"{package}.{package.removesuffix('_bindings')}"
        stubgen = [sys.executable, "-c", "from mypy.stubgen import main; main()", "--inspect-mode"]
        subprocess.run([*stubgen, "-m", module, "-o", scratch], check=True, env=environment, stdout=subprocess.DEVNULL)
        stub = (Path(scratch) / f"{module.replace('.', '/')}.pyi").read_text()
        print_it = f"import {package}; print({package}.__version__)"
        version = subprocess.run(
            [sys.executable, "-c", print_it], check=True, env=environment, capture_output=True, text=True
        ).stdout.strip()
    return (
        f"# The part of {package} {version} that rmt-edge uses; written by record.py from NVIDIA's bindings.\n"
        '# mypy: disable-error-code="overload-cannot-match"\n'
        f'from typing import Any, Callable, ClassVar, overload\n\n__version__ = "{version}"\n\n{reduced(stub)}\n'
    )


if __name__ == "__main__":
    target = Path(sys.argv[2])
    bindings = "tensorrt_rtx_bindings" if target.stem.startswith("rtx") else "tensorrt_bindings"
    target.write_text(record(Path(sys.argv[1]), bindings))
