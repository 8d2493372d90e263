"""Classifying a connection by its first bytes."""

from __future__ import annotations

import pytest

from formats.channel import MULTIFD_INIT_BYTES, ChannelKind, MultifdInit, classify
from formats.errors import SchemaMismatch
from tests import builders as b


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"QEVM", ChannelKind.MAIN),
        (b"\x11\x22\x33\x44", ChannelKind.MULTIFD),
        (b.RECV_BITMAP[:4], ChannelKind.RECOVERY),
        (b"\x16\x03\x01\x02", ChannelKind.TLS),
        (b"GET ", ChannelKind.UNKNOWN),
        (b"QEV", ChannelKind.UNKNOWN),
        (b"", ChannelKind.UNKNOWN),
    ],
)
def test_kinds(first: bytes, kind: ChannelKind) -> None:
    assert classify(first) is kind


def test_what_a_multifd_channel_says_of_itself() -> None:
    packet = b.multifd_init(bytes(range(16)), 7)
    assert len(packet) == MULTIFD_INIT_BYTES
    assert MultifdInit.parse(packet + b"and its first pages") == MultifdInit(bytes(range(16)), 7)


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (b"QEVM" + bytes(60), "5145564d and 0"),
        (b"\x11\x22\x33\x44" + b.be32(2) + bytes(56), "11223344 and 2"),
    ],
)
def test_another_packet(packet: bytes, found: str) -> None:
    with pytest.raises(SchemaMismatch, match=f"magic 11223344 and version 1 expected, found {found}$"):
        MultifdInit.parse(packet)
