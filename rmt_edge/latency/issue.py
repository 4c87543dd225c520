"""Issue: how long a GPU takes to issue the instructions of rmt-edge's own kernels, at best.

The instructions are counted without a GPU: SASS, its loops weighted by their trips (bench/kernel_cost.py, which writes
issue.toml beside this file). The rate is a warp instruction per scheduler and clock, which no kernel keeps up: like the
roofline's other terms this one is optimistic.
"""

from functools import lru_cache
from pathlib import Path

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.latency.kernels import Kernel
from rmt_edge.settings import read_toml

TABLE = Path(__file__).with_name("issue.toml")
ISSUED_PER_CLOCK = 4  # warp instructions of an SM, one a scheduler, from SM 8.0 on
# Dense INT8 operations of an SM in one clock: int8_tops over this is SMs x clock, which no profile has. A100: 624 TOPS
# / (108 SMs x 1.41 GHz); A10, L4, RTX 40 and 50: a quarter of the tensor cores' width of their time's big chips; Orin:
# engines/jetson-agx-orin-64gb.toml; H100: 1,979 / (132 x 1.83); B200 and Thor: twice that.
INT8_OPERATIONS_A_CLOCK = {
    "8.0": 4096, "8.6": 2048, "8.7": 4096, "8.9": 2048, "9.0": 8192, "10.0": 16384, "11.0": 16384, "12.0": 2048,
}  # fmt: skip
# The SM whose kernels were counted, for those that were not: same instructions, or nearly.
COUNTED_FOR = {"8.0": "8.7", "8.6": "8.7", "10.0": "9.0", "11.0": "9.0", "12.0": "8.9"}


def issue_seconds(kernel: Kernel, profile: DeviceProfile, batch: int) -> float:
    """The least time to issue a kernel's instructions; 0 for TensorRT's own kernels and where nothing was counted.

    Of an op that was counted on other grids, the nearest one's instructions a position and channel count.
    """
    capability = profile.compute_capabilities[0]
    if not kernel.plugin or profile.int8_tops is None or capability not in INT8_OPERATIONS_A_CLOCK:
        return 0.0
    rows = _rows(COUNTED_FOR.get(capability, capability)).get(kernel.counted_as, [])
    if not rows:
        return 0.0
    h, w, c = kernel.size
    _, per_element = min(rows, key=lambda row: abs(row[0] - h * w))
    per_second = ISSUED_PER_CLOCK * profile.int8_tops * 1e12 / INT8_OPERATIONS_A_CLOCK[capability]
    return per_element * h * w * c * batch / per_second


@lru_cache
def _rows(capability: str) -> dict[str, list[tuple[int, float]]]:
    """Of each kernel the positions of the grids it was counted on, with warp instructions a position and channel."""
    if not TABLE.is_file():
        return {}
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_toml(TABLE)["kernel"]:
        if row["compute_capability"] == capability:
            elements = row["h"] * row["w"] * row["c"]
            found.setdefault(row["name"], []).append((row["h"] * row["w"], row["warp_instructions"] / elements))
    return found
