"""Events are frozen facts."""

from __future__ import annotations

import dataclasses

import pytest

from formats.events import StreamHeader


def test_an_event_cannot_be_changed_and_hides_its_bytes() -> None:
    event = StreamHeader(0, b"QEVM\0\0\0\3", 3)
    assert repr(event) == "StreamHeader(offset=0, version=3)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.version = 2  # type: ignore[misc]
