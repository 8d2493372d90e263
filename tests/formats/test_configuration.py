"""The configuration section by itself; what is wrong with one, in a stream, is in test_parser.py."""

from __future__ import annotations

import pytest

from formats import events
from formats.configuration import check_name, read_configuration
from formats.cursor import Cursor
from formats.errors import LimitExceeded
from tests import builders as b


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_everything_that_it_can_say(step: int) -> None:
    wire = b.configuration(b"virt-9.2", 16, [b"multifd", b"events"], bytes(range(16)))
    stream = wire + b"\x01"
    cursor = Cursor()
    steps = read_configuration(cursor)
    found = None
    for i in range(0, len(stream), step):
        cursor.load(stream[i : i + step])
        try:
            next(steps)
        except StopIteration as stop:
            found = stop.value
            break
    assert found == events.Configuration(0, wire, "virt-9.2", 16, ("multifd", "events"), bytes(range(16)))


def test_a_name_has_a_limit() -> None:
    check_name("section name", 9, 9, 0)
    with pytest.raises(LimitExceeded, match=r"^at 0x5: section name of at most 9 bytes expected \(limit name_bytes\)"):
        check_name("section name", 10, 9, 5)
