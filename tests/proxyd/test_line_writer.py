"""Log lines through real pipes: full, non-blocking and broken ones."""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from proxyd.line_writer import LineWriter

PIPE_BYTES = 65536


class Pipe:
    """A pipe with its reader, who reads when told to."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def read_to_the_end(self) -> bytes:
        """Everything, once the writing end is closed."""
        os.close(self.write_end)
        data = b""
        while chunk := os.read(self.read_end, 1 << 20):
            data += chunk
        return data

    def fill(self) -> None:
        """Until it takes nothing any more."""
        other = os.open(f"/proc/self/fd/{self.write_end}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                while True:
                    os.write(other, b"." * 4096)
        finally:
            os.close(other)


@contextmanager
def a_pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    try:
        yield pipe
    finally:
        for end in (pipe.read_end, pipe.write_end):
            with suppress(OSError):
                os.close(end)


def wait_for(what: threading.Event) -> None:
    assert what.wait(10), "nothing happened for 10 seconds"


def test_lines_come_in_order_and_whole() -> None:
    with a_pipe() as pipe:
        with LineWriter(pipe.write_end) as writer:
            for n in range(1000):
                writer.put(f"line {n}\n")
            writer.put("a traceback\n    of two lines\n")
            writer.put("\udcff not UTF-8\n")
        expected = b"".join(b"line %d\n" % n for n in range(1000))
        assert pipe.read_to_the_end() == expected + b"a traceback\n    of two lines\n\\udcff not UTF-8\n"


def test_a_reader_that_stands_still_stops_nobody_and_is_told_of_what_it_missed() -> None:
    told: list[int] = []
    with a_pipe() as pipe:
        pipe.fill()
        writer = LineWriter(pipe.write_end, max_bytes=1000)
        writer.tell_lost = told.append
        writer.notice = lambda count: f"[{count} missing]\n"
        line = "x" * 99 + "\n"
        began = time.monotonic()
        for _ in range(25):
            writer.put(line)
        writer.put("short\n")
        assert time.monotonic() - began < 5, "it did not wait for the reader"
        assert sum(told) == 16, "ten lines fit; after the first that does not, none goes in, however short"
        got = b""
        while b"missing]\n" not in got:
            got += os.read(pipe.read_end, 1 << 16)
        writer.put("it goes on\n")
        writer.close()
        got = (got + pipe.read_to_the_end()).lstrip(b".")
        assert got == line.encode() * 10 + b"[16 missing]\n" + b"it goes on\n"


def test_the_end_does_not_wait_for_a_reader_that_never_comes() -> None:
    with a_pipe() as pipe:
        pipe.fill()
        writer = LineWriter(pipe.write_end)
        writer.put("nobody reads this\n")
        began = time.monotonic()
        writer.close(0.05)
        assert time.monotonic() - began < 5
        writer.put("too late\n")
        assert pipe.read_to_the_end().lstrip(b".").startswith(b"nobody reads this\n")
        writer.close()


def test_the_end_waits_for_a_reader_that_is_only_slow() -> None:
    with a_pipe() as pipe:
        pipe.fill()
        writer = LineWriter(pipe.write_end)
        writer.put("late\n")
        closer = threading.Thread(target=writer.close, args=(30,))
        closer.start()
        assert os.read(pipe.read_end, PIPE_BYTES) == b"." * PIPE_BYTES
        closer.join(30)
        assert not closer.is_alive()
        assert pipe.read_to_the_end() == b"late\n"


def test_a_non_blocking_standard_error_loses_nothing() -> None:
    with a_pipe() as pipe:
        os.set_blocking(pipe.write_end, False)
        pipe.fill()
        with LineWriter(pipe.write_end) as writer:
            writer.put("y" * PIPE_BYTES + "\n")
            got = b""
            while not got.endswith(b"\n"):
                assert select.select([pipe.read_end], [], [], 10)[0]
                got += os.read(pipe.read_end, PIPE_BYTES)
        assert got == b"." * PIPE_BYTES + b"y" * PIPE_BYTES + b"\n"


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else() -> None:
    heard = threading.Event()
    told: list[int] = []

    def hear(count: int) -> None:
        told.append(count)
        heard.set()

    with a_pipe() as pipe:
        os.close(pipe.read_end)
        with LineWriter(pipe.write_end) as writer:
            writer.tell_lost = hear
            for text in ("one\n", "two\n"):
                writer.put(text)
                wait_for(heard)
                heard.clear()
        assert told == [1, 1]


def test_a_notice_that_nobody_reads_is_not_counted() -> None:
    told: list[int] = []
    with a_pipe() as pipe:
        pipe.fill()
        writer = LineWriter(pipe.write_end, max_bytes=5)
        writer.tell_lost = told.append
        writer.put("four\n")
        writer.put("more than there is room for\n")
        os.close(pipe.read_end)
        writer.close()
        assert sorted(told) == [1, 1], "one that broke on its way and one that found no room"


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_formatter_a_notice_has_the_number(count: int) -> None:
    with a_pipe() as pipe:
        with LineWriter(pipe.write_end) as writer:
            assert writer.notice(count) == f"{count} lines were lost\n"
        assert pipe.read_to_the_end() == b""
