"""The head of a save image: read in either byte order, and refused where libvirt would refuse it."""

from __future__ import annotations

import struct

import pytest

from formats.errors import FormatError, LimitExceeded, SchemaMismatch, TruncatedStream, UnsupportedStream
from formats.files.libvirt_image import HEADER_BYTES, MAX_DATA_BYTES, SaveFormat, is_save_image, parse_header
from tests import images


@pytest.mark.parametrize(("order", "name"), [("<", "little"), (">", "big")])
@pytest.mark.parametrize("cookie", [images.COOKIE, None])
def test_a_header_of_either_byte_order(order: str, name: str, cookie: bytes | None) -> None:
    head = images.image_head(5, order=order, cookie=cookie)
    header = parse_header(head[:HEADER_BYTES])
    assert (header.byte_order, header.format, header.was_running) == (name, SaveFormat.ZSTD, True)
    assert header.stream_offset == len(head)
    assert header.raw == head[:92]
    assert header.xml_of(head[92:]) == images.XML


@pytest.mark.parametrize("number", range(7))
def test_the_formats_are_libvirts(number: int) -> None:
    names = ["raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse"]
    assert parse_header(images.image_head(number)[:92]).format.name.lower() == names[number]


def test_what_is_an_image() -> None:
    assert is_save_image(images.image_head(0))
    assert is_save_image(images.image_head(0, magic=b"LibvirtQemudPart"))
    assert not is_save_image(b"QEVM\0\0\0\3" + bytes(90))


def header(version: int = 2, length: int = 100, number: int = 0, cookie: int = 0) -> bytes:
    return b"LibvirtQemudSave" + struct.pack("<5I56x", version, length, 1, number, cookie)


@pytest.mark.parametrize(
    ("raw", "error", "said"),
    [
        (b"LibvirtQemudPart" + header()[16:], UnsupportedStream, "a save that was interrupted"),
        (b"LibvirtQemudPart", UnsupportedStream, "a save that was interrupted"),
        (b"QEVM" + bytes(88), SchemaMismatch, "a save image expected"),
        (header()[:91], TruncatedStream, "header of 92 bytes expected, found 91"),
        (header(version=1), UnsupportedStream, "version 2 expected, found 1"),
        (header(version=3), UnsupportedStream, "version 2 expected, found 3"),
        (header(number=7), UnsupportedStream, "6 sparse expected, found 7"),
        (header(length=0), SchemaMismatch, "found an empty one"),
        (header(length=MAX_DATA_BYTES + 1), LimitExceeded, f"at most {MAX_DATA_BYTES} bytes"),
        (header(cookie=100), SchemaMismatch, "cookie within 100 bytes expected, found it at 100"),
    ],
)
def test_one_clear_error(raw: bytes, error: type[FormatError], said: str) -> None:
    with pytest.raises(error) as caught:
        parse_header(raw)
    assert said in str(caught.value)
