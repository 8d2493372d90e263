"""What the commands print with: plain where there is no terminal, quiet where nothing takes long."""

from __future__ import annotations

import io
import sys

import pytest

from proxyd.cli import terminal


class Screen(io.StringIO):
    """A terminal, as far as rich asks."""

    def isatty(self) -> bool:
        return True


def test_text_is_literal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.console().print("[bold]:smile: 0x1f[/bold]")
    assert capsys.readouterr().out == "[bold]:smile: 0x1f[/bold]\n"


def test_standard_error_is_another_console(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.console(stderr=True).print("said")
    assert capsys.readouterr() == ("", "said\n")


def test_without_a_terminal_lines_fold_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.console().width == terminal.WIDTH_OF_A_PIPE
    monkeypatch.setenv("COLUMNS", "77")
    assert terminal.console().width == 77


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    terminal.console().print("red", style="red")
    assert ("\x1b[31m" in screen.getvalue()) is coloured


def test_a_table_has_no_trailing_blanks_and_folds_its_last_column_only(capsys: pytest.CaptureFixture[str]) -> None:
    made = terminal.table("Name", "Why", title="Title")
    made.add_row("x" * 30, "y" * 130)
    made.add_row("z", "")
    terminal.print_table(terminal.console(), made)
    first, title, header, rule, *rows = capsys.readouterr().out.splitlines()
    assert (first, title) == ("", "Title")
    assert header.split() == ["Name", "Why"]
    assert set(rule) == {"─"}
    assert [row.split() for row in rows] == [["x" * 30, "y" * 107], ["y" * 23], ["z"]]
    assert not any(row.endswith(" ") for row in rows)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("mach-virt.ram", "mach-virt.ram"), ("\x1b[2Jé", r"\x1b[2Jé"), ("a\nb", r"a\nb"), ("\u202e", r"\u202e")],
)
def test_foreign_text_cannot_move_the_cursor(text: str, shown: str) -> None:
    assert terminal.plain(text) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (10239, "10239 B"),
        (10240, "10.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert terminal.size_of(count) == text


def test_words() -> None:
    assert [terminal.plural(n, "vCPU") for n in (0, 1, 2)] == ["0 vCPUs", "1 vCPU", "2 vCPUs"]
    assert [terminal.hex_or_dash(value) for value in (None, 0, 31)] == ["-", "0x0", "0x1f"]


def test_documents_begin_with_version_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json("inspect", {"a": "é"})
    expected = '{\n  "version": 1,\n  "command": "inspect",\n  "a": "\\u00e9"\n}\n'
    assert capsys.readouterr() == (expected, "")
    terminal.print_json("inspect", {"a": "é"}, stderr=True)
    assert capsys.readouterr() == ("", expected)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal.time, "monotonic", made.monotonic)
    return made


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """To be called in the test itself: pytest changes sys.stderr between a test's fixtures and the test."""
    made = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_no_progress_without_a_terminal() -> None:
    with terminal.progress("reading", 100) as bar:
        assert bar is None


def test_no_progress_for_what_is_quick(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    screen = terminal_as_stderr(monkeypatch)
    with terminal.progress("reading", 100) as bar:
        assert bar is not None
        for done in range(100):
            bar.advance_to(done)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("total", "shown"), [(1 << 20, "0.5/1.0 MiB"), (None, "512.0/? KiB")])
def test_progress_of_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, total: int | None, shown: str
) -> None:
    screen = terminal_as_stderr(monkeypatch)
    with terminal.progress("reading \x1b file", total) as bar:
        assert bar is not None
        clock.now += terminal.PROGRESS_AFTER_S
        bar.advance_to(1 << 19)
        drawn = screen.getvalue()
        assert r"reading \x1b file" in drawn
        assert shown in drawn
        # Not drawn for every chunk.
        bar.advance_to(1 << 20)
        assert screen.getvalue() == drawn
        clock.now += 2 * terminal.PROGRESS_EVERY_S
        bar.advance_to(1 << 20)
        assert len(screen.getvalue()) > len(drawn)
