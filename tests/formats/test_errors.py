"""FormatError says where."""

from __future__ import annotations

from formats.errors import FormatError, TruncatedStream, quoted


def test_message_with_and_without_offset() -> None:
    assert str(FormatError("a thing expected, found another", 0x1F3A20)) == (
        "at 0x1f3a20: a thing expected, found another"
    )
    error = TruncatedStream("the stream ends")
    assert (str(error), error.message, error.offset) == ("the stream ends", "the stream ends", None)


def test_a_name_from_the_wire_is_shown_and_not_more() -> None:
    assert quoted("0000:00:01.0/virtio-net") == "'0000:00:01.0/virtio-net'"
    assert quoted("a b\n\x1b\ufffd") == "'a?b???'"
    assert quoted("x" * 48) == f"'{'x' * 48}'"
    assert quoted("x" * 255) == f"'{'x' * 45}...'"
