"""A thread that writes, and what becomes of what it cannot."""

from __future__ import annotations

import threading

from proxyd.scribe import MAX_WAITING, Scribe
from tests.proxyd.relay.stage import a_journal


def test_jobs_are_done_in_order_and_before_the_end() -> None:
    done: list[int] = []
    scribe = Scribe(a_journal()[0])
    for number in range(20):
        assert scribe.submit("a number", lambda number=number: done.append(number))  # type: ignore[misc]
    scribe.close()
    assert done == list(range(20))


def test_nothing_begins_without_a_job() -> None:
    before = threading.active_count()
    scribe = Scribe(a_journal()[0])
    assert threading.active_count() == before
    scribe.close()


def test_what_fails_is_told_and_the_next_is_done() -> None:
    journal, told = a_journal()
    done: list[str] = []

    def full() -> None:
        raise OSError(28, "No space left on device")

    def bug() -> None:
        raise ZeroDivisionError

    scribe = Scribe(journal)
    scribe.submit("recording", full)
    scribe.submit("recording", bug)
    scribe.submit("recording", lambda: done.append("written"))
    scribe.close()
    assert done == ["written"]
    assert told.texts() == [
        "recording: cannot be written: No space left on device",
        "recording: a bug of proxyd's",
    ]


def test_a_disk_that_is_too_slow_loses_and_never_waits() -> None:
    journal, told = a_journal()
    scribe = Scribe(journal)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait(30)

    scribe.submit("slow", slow)
    begun.wait(30)
    taken = [scribe.submit("more", lambda: None) for _ in range(MAX_WAITING + 2)]
    assert taken == [True] * MAX_WAITING + [False] * 2
    assert scribe.lost == 2
    assert told.lines[-1][1:] == ("more: lost, because the disk is too slow", {"lost": 2})
    go_on.set()
    scribe.close()
