"""boards.toml: what it may say, and what never reaches a command line."""

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import read_boards


@pytest.fixture
def boards(tmp_path):
    def read(text, names=None):
        path = tmp_path / "boards.toml"
        path.write_text(text)
        return read_boards(path, names)

    return read


def test_four_lines_are_two_boards_with_defaults(boards):
    first, second = boards('[orin-1]\nssh = "nvidia@orin-1.local"\n[thor]\nssh = "thor.local"\n')
    assert (first.name, first.ssh, second.name) == ("orin-1", "nvidia@orin-1.local", "thor")
    assert (first.device, first.python, first.folder, first.runs) == ("auto", "python3", "rmt-edge-fleet", "engines")
    assert first.power_mode is None


def test_boards_are_chosen_by_name(boards):
    text = '[a]\nssh = "a"\n[b]\nssh = "b"\n'
    assert [x.name for x in boards(text, ["b"])] == ["b"]
    with pytest.raises(RmtEdgeError, match=r"no board c .*\n.*there are a, b"):
        boards(text, ["c"])


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('ssh = "-oProxyCommand=touch /tmp/x"', "take this for an option"),
        ('ssh = "-oProxyCommand=x"', "take this for an option"),
        ('ssh = "root@-oProxyCommand=x"', "take this for an option"),
        ('ssh = "ssh://-oProxyCommand=x"', "take this for an option"),
        ('ssh = "host -p 22"', "take this for an option"),
        ('ssh = "host\\nother"', "without control characters"),
        ('ssh = ""', "is ''"),
        ("ssh = 5", "is 5"),
        ('ssh = "h"\nfolder = "../up"', "folder of its own"),
        ('ssh = "h"\nfolder = "~/x"', "folder of its own"),
        ('ssh = "h"\nfolder = "/"', "folder of its own"),
        ('ssh = "h"\nfolder = "."', "folder of its own"),
        ('ssh = "h"\npython = "-c"', "command or a path"),
        ('ssh = "h"\npower_mode = "15W; reboot"', "power mode"),
        ('ssh = "h"\nruns = "torch"', "allowed: engines, onnx"),
        ('ssh = "h"\npasword = "x"', "unknown pasword"),
        ('device = "auto"', "has no ssh"),
        ('ssh = "h"\ndevice = "orin"', "known: auto, .*jetson-orin-nano-8gb"),
    ],
)
def test_what_could_do_harm_or_is_unknown_is_refused(boards, lines, match):
    with pytest.raises(RmtEdgeError, match=match):
        boards(f"[orin]\n{lines}\n")


@pytest.mark.parametrize("name", ["-x", "a b", "../x", "ü", "x" * 64])
def test_a_name_is_a_folders_name(boards, name):
    with pytest.raises(RmtEdgeError, match="is called"):
        boards(f'["{name}"]\nssh = "h"\n')


def test_two_names_of_one_board_are_refused(boards):
    with pytest.raises(RmtEdgeError, match="differ in case"):
        boards('[Orin]\nssh = "a"\n[orin]\nssh = "b"\n')
    with pytest.raises(RmtEdgeError, match="same ssh, same folder"):
        boards('[a]\nssh = "h"\n[b]\nssh = "h"\nfolder = "rmt-edge-fleet/"\n')
    assert len(boards('[a]\nssh = "h"\n[b]\nssh = "h"\nfolder = "other"\n')) == 2


def test_a_file_without_boards_is_refused(boards, tmp_path):
    with pytest.raises(RmtEdgeError, match="no boards"):
        boards("")
    with pytest.raises(RmtEdgeError, match="is no table"):
        boards('ssh = "h"\n')
    with pytest.raises(RmtEdgeError, match="There is no file"):
        read_boards(tmp_path / "none.toml")
