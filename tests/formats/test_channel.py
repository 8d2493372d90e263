"""Classifying a connection by its first bytes."""

from __future__ import annotations

import pytest

from formats.channel import ChannelKind, classify


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"QEVM", ChannelKind.MAIN),
        (b"\x11\x22\x33\x44", ChannelKind.MULTIFD),
        (b"\x16\x03\x01\x02", ChannelKind.TLS),
        (b"GET ", ChannelKind.UNKNOWN),
        (b"QEV", ChannelKind.UNKNOWN),
        (b"", ChannelKind.UNKNOWN),
    ],
)
def test_kinds(first: bytes, kind: ChannelKind) -> None:
    assert classify(first) is kind
