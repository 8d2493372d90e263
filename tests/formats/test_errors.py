"""FormatError says where."""

from __future__ import annotations

from formats.errors import FormatError, TruncatedStream


def test_message_with_and_without_offset() -> None:
    assert str(FormatError("a thing expected, found another", 0x1F3A20)) == (
        "at 0x1f3a20: a thing expected, found another"
    )
    error = TruncatedStream("the stream ends")
    assert (str(error), error.message, error.offset) == ("the stream ends", "the stream ends", None)
