"""What a fleet run is: the files that every board gets, the options, and a board's steps as commands of rmt-edge."""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.artifact import sha256_of
from rmt_edge.bundle.bundle import SUFFIX, Index, chosen_models, open_bundle
from rmt_edge.device.profile import AUTO, load_profile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import ENGINES, Board, check_power_mode
from rmt_edge.settings import PACKAGE, ROOT, check_choice

STEPS = ("build", "validate", "bench", "verdict")
DEFAULT = "default"  # the folder of records that were measured in the mode that a board is in
SHORT = 16  # digits of a sha256 in the names of folders


@dataclass(frozen=True)
class Options:
    """What is asked of every board; None leaves a command its default. power_modes: each is measured, one after the
    other; without any a board's own."""

    steps: tuple[str, ...] = STEPS
    power_modes: tuple[str, ...] = ()
    recipes: tuple[str, ...] | None = None
    kernels: str | None = None
    batch: tuple[int, ...] | None = None
    duration: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for step in self.steps:
            check_choice("--steps", step, STEPS)
        for mode in self.power_modes:
            check_power_mode(mode)

    def modes_of(self, board: Board) -> list[str | None]:
        """The power modes to measure a board in; None is the one that it is in."""
        return list(dict.fromkeys(self.power_modes)) or [board.power_mode]


@dataclass(frozen=True)
class Cargo:
    """The files that boards get, held to what they say they are."""

    bundle: Path
    bundle_sha256: str
    index: Index
    wheel: Path
    wheel_sha256: str

    @property
    def bundle_path(self) -> str:
        """Of the packed bundle, in the work folder."""
        return f"bundles/{self.bundle_sha256[:SHORT]}/{self.bundle.name}"

    @property
    def wheel_path(self) -> str:
        return f"wheels/{self.wheel_sha256[:SHORT]}/{self.wheel.name}"

    @property
    def environment(self) -> str:
        return f"venv-{self.wheel_sha256[:SHORT]}"


def read_cargo(bundle: Path, wheel: Path | None = None, is_sent: bool = True) -> Cargo:
    """The bundle, whole, and the wheel of this very rmt-edge; by default the one that `make wheel` left. Where nothing
    is sent any more, the wheel need not be here."""
    if bundle.suffix != SUFFIX:
        raise RmtEdgeError(f"{bundle} is no bundle.", f"a fleet takes what `rmt-edge pack` writes, *{SUFFIX}.")
    index = open_bundle(bundle)
    wheel = wheel or ROOT / "dist" / f"rmt_edge-{__version__}-py3-none-any.whl"
    if is_sent:
        check_wheel(wheel)
    return Cargo(bundle, sha256_of(bundle), index, wheel, sha256_of(wheel) if wheel.is_file() else "")


def check_wheel(wheel: Path) -> None:
    """Refuse a wheel of another state of rmt-edge than this: a board would measure other code."""
    do = "make wheel, in the repository; or name one of this version: --wheel FILE."
    if not wheel.is_file():
        raise RmtEdgeError(f"There is no wheel {wheel}.", "a board gets rmt-edge as a wheel.", do)
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise RmtEdgeError(f"{wheel.name} is no wheel for every machine.", "rmt-edge's own is pure Python.", do)
    try:
        with zipfile.ZipFile(wheel) as archive:
            theirs = {x: archive.read(x) for x in archive.namelist() if x.startswith("rmt_edge/") and x.endswith(".py")}
    except (zipfile.BadZipFile, OSError) as error:
        raise RmtEdgeError(f"{wheel} cannot be read: {error}.", do=do) from error
    ours = {x.relative_to(PACKAGE.parent).as_posix(): x.read_bytes() for x in PACKAGE.rglob("*.py")}
    if different := sorted(x for x in ours.keys() | theirs.keys() if ours.get(x) != theirs.get(x)):
        raise RmtEdgeError(
            f"{wheel} is of another state of rmt-edge than this: {different[0]} differs.",
            f"{len(different)} files differ; both sides must be of one state.", do,
        )  # fmt: skip


def profile_path(board: Board) -> tuple[Path, str] | None:
    """A device profile that is a file of the user's, and its path in the work folder."""
    if not board.device.endswith(".toml"):
        return None
    path = Path(board.device)
    load_profile(path)
    return path, f"profiles/{sha256_of(path)[:SHORT]}/{path.name}"


def steps_of(board: Board, options: Options) -> list[str]:
    """The steps of a board with those that they need before them; a board that runs ONNX files builds for a device that
    is named alone."""
    wanted = set(options.steps)
    if "verdict" in wanted:
        wanted.add("bench")
    if board.runs == ENGINES and wanted & {"validate", "bench"}:
        wanted.add("build")
    if board.runs != ENGINES and board.device == AUTO:
        wanted.discard("build")
    return [x for x in STEPS if x in wanted]


def plan_of(board: Board, options: Options, cargo: Cargo, work: str) -> dict[str, Any]:
    """The steps of a board as supervise.py runs them. work: the absolute path of its work folder."""
    rmt_edge = [f"{work}/{cargo.environment}/bin/python", "-m", "rmt_edge.cli"]
    packed = f"{work}/{cargo.bundle_path}"
    folder = packed.removesuffix(SUFFIX)
    recipes = None if options.recipes is None else list(options.recipes)
    models = [f"{folder}/{x.onnx}" for x in chosen_models(cargo.index, recipes)]
    files: list[Any] = models if board.runs != ENGINES else [{"printed_by": "build", "suffix": ".engine"}]
    profile = profile_path(board)
    device = board.device if profile is None else f"{work}/{profile[1]}"
    given = ["--recipes", *recipes] if recipes else []
    given += ["--kernels", options.kernels] if options.kernels else []
    drop = [] if options.max_drop is None else ["--max-drop", str(options.max_drop)]
    steps, wanted = [_step("unpack", [*rmt_edge, "unpack", packed])], steps_of(board, options)
    if "build" in wanted:
        steps.append(_step("build", [*rmt_edge, "build", folder, "--device", device, *given]))
    if "validate" in wanted:
        argv = [*rmt_edge, "validate", *files, "--bundle", folder, "--output", "records/validate", *drop]
        steps.append(_step("validate", argv, fine=(0, 1)))
    measure = ["--batch", *map(str, options.batch)] if options.batch else []
    measure += [] if options.duration is None else ["--duration", str(options.duration)]
    for mode in options.modes_of(board) if "bench" in wanted else []:
        into, suffix = f"records/{mode or DEFAULT}", f"-{mode}" if mode else ""
        argv = [*rmt_edge, "bench", *files, "--output", into, *measure]
        steps.append(_step(f"bench{suffix}", argv, mode) | {"manifests": files, "into": into})
        if "verdict" in wanted:
            steps.append(_step(f"verdict{suffix}", [*rmt_edge, "verdict", into]))
    return {"steps": steps}


def _step(name: str, argv: list[Any], power_mode: str | None = None, fine: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return {"name": name, "argv": argv, "power_mode": power_mode, "fine": list(fine)}


def plan_hash(board: Board, options: Options, cargo: Cargo) -> str:
    """What decides a board's steps: the same again is the same work."""
    where = {"board": asdict(board), "wheel": cargo.wheel_sha256, "bundle": cargo.bundle_sha256}
    text = json.dumps([plan_of(board, options, cargo, ""), where], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
