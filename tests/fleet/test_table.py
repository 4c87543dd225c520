"""The live table: drawn again on a terminal, lines elsewhere, and nothing of a board's that a terminal would obey."""

import io
import logging

from rmt_edge.fleet.table import View, clean, last_line, planned_seconds, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_the_table_over_the_last_one():
    view = View(out=Terminal())
    view.tell("orin-1", step="bench", share=0.25, temperature_c=51.4, left_s=90.0)
    view.tell("thor", step="build")
    view.last = 0
    view.tell("thor", note="x")
    text = view.out.getvalue()
    assert "\x1b[2A" in text  # back over the header and the one board of the first drawing
    assert text.rpartition("\x1b[2A")[2].splitlines() == [
        "\x1b[2Kboard   step   progress  °C  min left",
        "\x1b[2Korin-1  bench  25 %      51  1.5",
        "\x1b[2Kthor    build  –         –   –         x",
    ]


def test_a_table_is_no_longer_than_the_terminal(monkeypatch):
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("COLUMNS", "30")
    view = View(out=Terminal())
    for i in range(9):
        view.tell(f"board-{i}", step="done" if i < 7 else "bench", share=1.0 if i < 7 else 0.5)
    view.last = 0
    view.draw()
    lines = view.out.getvalue().split("\x1b[2K")[-5:]
    assert [x.split()[0] for x in lines] == ["board", "board-7", "board-8", "board-0", "…"]
    assert lines[-1] == "… and 6 more\n" and all(len(x) <= 30 for x in lines)


def test_elsewhere_a_step_is_a_line(caplog):
    view = View(out=io.StringIO())
    with caplog.at_level(logging.INFO, "rmt_edge"):
        view.tell("a", step="build")
        view.tell("a", share=0.5)
        view.tell("a", step="bench")
        view.tell("a", note="no answer for 3 s")
    assert caplog.messages == ["fleet: a, build", "fleet: a, bench", "fleet: a, bench, no answer for 3 s"]


def test_a_step_begins_without_what_was_known_of_the_one_before():
    view = View(out=io.StringIO())
    view.tell("a", step="bench", share=0.9, left_s=3.0)
    view.tell("a", step="verdict")
    assert view.rows["a"].share is None and view.rows["a"].left_s is None


def test_what_a_board_says_cannot_move_the_cursor():
    assert clean("evil\x1b[2J\x07\nline\u202e") == "evil [2J line"
    assert "\x1b" not in "".join(table([("a", clean("\x1b]0;title\x07"), "", "", "", "")]))


def test_what_commands_say_of_their_time():
    log = "validate x: begins, 4 batches\nbench: begins, 120 s\n"
    assert planned_seconds(log) == 120.0 and planned_seconds("bench: 120 s in 121.0 s\n") is None
    assert last_line("a\n b \n\n") == "b" and last_line("") == ""
