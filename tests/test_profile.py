"""Device profiles: what they hold and what they refuse."""

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.profile import DeviceProfile, load_profile, profile_names, version_numbers

RIGHT = {
    "name": "x", "device": "X", "backend": "tensorrt_rtx", "compute_capabilities": ["8.6"],
    "tensorrt_versions": ["1.7", "1.7"], "memory_gib": 8, "workspace_mib": 1024,
}  # fmt: skip


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_in_the_repository_loads(name):
    assert load_profile(name).name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RmtEdgeError, match=r"no device profile abacus[\s\S]*rtx-portable"):
        load_profile("abacus")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"compute_capabilities": ["sm_86"]}, r'like \["8.7"\]'),
        ({"compute_capabilities": "8.6"}, "it is a list"),
        ({"compute_capabilities": []}, "compute_capabilities is"),
        ({"backend": "onnxruntime"}, "allowed: tensorrt_rtx, tensorrt"),
        ({"backend": "tensorrt", "compute_capabilities": ["8.6", "8.9"]}, "only tensorrt_rtx builds one engine"),
        ({"tensorrt_versions": ["11.4", "10.3"]}, "the first comes before the last"),
        ({"tensorrt_versions": ["10"]}, "the first and the last"),
        ({"memory_gib": 0}, "memory_gib is 0"),
        ({"bandwidth_gb_s": -1.0}, "bandwidth_gb_s is -1.0"),
        ({"workspace_mib": 9000}, "a part of the memory"),
        ({"min_batch": 4}, "min ≤ opt ≤ max"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"batches": [1, 64]}, "batches holds 64"),
        ({"hardware_compatibility": "all"}, "allowed: none, ampere_plus"),
    ],
)
def test_wrong_profiles_are_refused(values, match):
    assert DeviceProfile(**RIGHT).max_batch == 32
    with pytest.raises(RmtEdgeError, match=match):
        DeviceProfile(**RIGHT | values)


def test_versions_compare_as_numbers():
    assert version_numbers("10.13.3.9") > version_numbers("10.3")
