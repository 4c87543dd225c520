"""Load the plugin library into a TensorRT or TensorRT-RTX process, before it parses an ONNX file or opens an engine.

For the device too: numpy, torch and triton are not needed. The TensorRT module is passed in, so that the caller chooses
between `tensorrt` and `tensorrt_rtx`.
"""

import ctypes
import hashlib
import json
import platform
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import is_private, private_folder, remove_leftovers, scratch_folder, user_folder, written_whole

PLUGIN_NAMESPACE, PLUGIN_VERSION = "rmt_edge", "1"
LIBRARIES = Path("build/plugin")  # where the libraries lie unless another folder is named
# In an unpacked bundle (bundle/bundle.py): its index, and the folder of its libraries.
BUNDLE_INDEX, BUNDLED_LIBRARIES = "bundle.json", "libraries"
# The name without a version, under which TensorRT-RTX 1.7 opens its own library to add a plugin layer. Its wheel has
# only the name with one, and the failed dlopen ends the process.
RTX_LIBRARY = "libtensorrt_rtx.so"
_LOADED: dict[Path, ctypes.CDLL] = {}  # a library stays loaded as long as the process


def library_name(architecture: str) -> str:
    """architecture: as platform.machine() says it."""
    return f"librmt_edge_plugin_{architecture}.so"


def library_path(folder: Path) -> Path:
    """The plugin library for this machine's processor in that folder."""
    path = folder / library_name(platform.machine())
    if not path.exists():
        found = ", ".join(sorted(x.name for x in folder.glob(library_name("*")))) or "none"
        raise RmtEdgeError(
            f"No plugin library for {platform.machine()} in {folder}.",
            f"libraries there: {found}.",
            "Build it with `rmt-edge plugin build` (minutes), or build with --kernels native.",
        )
    return path


def open_library(path: Path) -> ctypes.CDLL:
    """The library for its C entry points (cpp/common/libraryApi.h and the ops' own), without TensorRT."""
    path = path.resolve()
    if path not in _LOADED:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise RmtEdgeError(
                f"The plugin library {path} cannot be loaded: {error}.",
                "it needs this processor and glibc 2.34 or later.",
            ) from error
        library.rmt_edge_library_info.restype = ctypes.c_char_p
        library.rmt_edge_last_error.restype = ctypes.c_char_p
        library.rmt_retention_workspace_bytes.restype = ctypes.c_size_t
        _LOADED[path] = library
    return _LOADED[path]


def library_info(path: Path) -> dict:
    """What the library holds: ops, cubin_sms, ptx_sms, versions, hash."""
    return json.loads(open_library(path).rmt_edge_library_info())


def take_last_error(path: Path) -> str:
    """What the library refused last in this thread, for the message of a failed parse or build; then forgotten."""
    return open_library(path).rmt_edge_last_error().decode()


def load_plugins(trt: ModuleType, path: Path) -> dict:
    """Register the library's plugins with this process's TensorRT; safe to call twice. Returns library_info.

    trt: the imported `tensorrt` or `tensorrt_rtx` (or `tensorrt_rtx_bindings`).
    """
    info = library_info(path)
    if "rtx" in trt.__name__:
        _make_rtx_findable()
    registry = trt.get_plugin_registry()
    if not _missing_ops(registry, info):
        return info
    if registry.load_library(str(path.resolve())) is None or _missing_ops(registry, info):
        missing = ", ".join(_missing_ops(registry, info))
        raise RmtEdgeError(
            f"{trt.__name__} {trt.__version__} did not register {missing} from {path}.",
            "the library serves TensorRT 10.3 and later, and TensorRT-RTX 1.",
            "Use --kernels native, or rebuild the library.",
        )
    return info


def _missing_ops(registry: Any, info: dict) -> list[str]:
    return [op for op in info["ops"] if registry.get_creator(op, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None]


def _make_rtx_findable() -> None:
    """See RTX_LIBRARY. A library of that name, empty but for its need of the real one, makes the dlopen succeed."""
    try:
        ctypes.CDLL(RTX_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        stub = user_folder("cache") / "rtx" / RTX_LIBRARY
        if not _is_ours(stub):
            _build_stub(stub)
        ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)


def _is_ours(stub: Path) -> bool:
    """Whether the stub is one that this user's rmt-edge made and that nobody else could change since."""
    noted = _stub_hash(stub)
    if not (is_private(stub.parent) and stub.is_file() and noted.is_file()):
        return False
    return noted.read_text() == hashlib.sha256(stub.read_bytes()).hexdigest()


def _stub_hash(stub: Path) -> Path:
    """Where the sha256 of the stub is noted: a damaged one is made again."""
    return stub.with_name(f"{stub.name}.sha256")


def _build_stub(stub: Path) -> None:
    compiler = next((x for x in ("gcc", "g++", "cc") if shutil.which(x)), None)
    if compiler is None:
        raise RmtEdgeError(
            f"TensorRT-RTX cannot use plugins here: there is no {RTX_LIBRARY}, and no C compiler to make it with.",
            "its wheel ships only libtensorrt_rtx.so.1, and its parser opens the name without the version.",
            "Install gcc, or put a link of that name on LD_LIBRARY_PATH before starting Python.",
        )
    remove_leftovers(private_folder(stub.parent))
    with scratch_folder(stub) as folder:
        # The real library is in memory already and is found there by its name: linking takes only an empty namesake.
        empty, real, made = folder / "empty.c", folder / f"{RTX_LIBRARY}.1", folder / RTX_LIBRARY
        empty.write_text("")
        command = [compiler, "-shared", str(empty), "-Wl,--no-as-needed"]
        for target, needs in ((real, []), (made, [str(real)])):
            arguments = [*command, f"-Wl,-soname,{target.name}", *needs, "-o", str(target)]
            result = subprocess.run(arguments, capture_output=True, text=True)
            if result.returncode:
                raise RmtEdgeError(
                    f"{RTX_LIBRARY} could not be made: {result.stderr.strip()}", do="Check the compiler."
                )
        with written_whole(_stub_hash(stub)) as noted:
            noted.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        made.replace(stub)
