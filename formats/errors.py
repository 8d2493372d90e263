"""What can be wrong with a migration stream.

    FormatError
     +-- TruncatedStream     the stream ended inside something
     +-- UnknownSection      a section that has no length on the wire and that we cannot walk
     +-- FooterMismatch      the section footer is missing or names another section
     +-- SchemaMismatch      bytes, vmdesc and known layout do not agree
     +-- LimitExceeded       legal so far, but larger than a limit allows
     +-- UnsupportedStream   a kind of stream or channel that proxyd does not carry

Anything else that escapes the parser is a bug of ours. A class exists only where some caller tells it apart.
"""

from __future__ import annotations

import re
from typing import Final

# What is shown of a name from the wire. QEMU's longest have some 40 characters; a stream that is out of step with
# itself takes guest memory for a name, and no more of that than this may reach a log.
SHOWN_CHARACTERS: Final = 48

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.:/@+-]")


def quoted(name: str) -> str:
    """A name from the wire, for a message: in quotes, cut, and with ``?`` for whatever no name of QEMU's has."""
    plain = _NOT_IN_NAMES.sub("?", name)
    return f"'{plain if len(plain) <= SHOWN_CHARACTERS else plain[: SHOWN_CHARACTERS - 3] + '...'}'"


class FormatError(Exception):
    """The bytes are not what QEMU writes. ``offset`` counts from the stream's first byte, where it is known."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"at {offset:#x}: {message}")
        self.message = message
        self.offset = offset


class TruncatedStream(FormatError):
    """The stream ended inside an element."""


class UnknownSection(FormatError):
    """A section whose end cannot be found, because it is neither walkable nor described."""


class FooterMismatch(FormatError):
    """QEMU_VM_SECTION_FOOTER is missing or names another section than the header did."""


class SchemaMismatch(FormatError):
    """The bytes, the vmdesc and the layout that we know do not agree with one another."""


class LimitExceeded(FormatError):
    """The stream is larger than a limit allows. The message names the limit."""


class UnsupportedStream(FormatError):
    """A kind of stream or channel that is recognised, but not carried. The message names it."""
