"""Reading a file that is as large as a guest's memory: in chunks, with progress, from a pipe if need be.

Files compressed by xz or gzip are recognised by their first bytes and read as what is in them. What a file contains
is not judged here.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from proxyd.cli.exit_codes import InputError
from proxyd.cli.terminal import Progress, plain, progress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES: Final = 1 << 20
STANDARD_INPUT: Final = "-"


class Compression(StrEnum):
    """What a file is packed with."""

    XZ = "xz"
    GZIP = "gzip"


_MAGICS: Final = {Compression.XZ: b"\xfd7zXZ\x00", Compression.GZIP: b"\x1f\x8b"}
_LONGEST_MAGIC: Final = max(map(len, _MAGICS.values()))


@dataclass(frozen=True, slots=True)
class FileDetails:
    """What the file system says of an input. Size in bytes and permissions are None where it is no regular file."""

    size: int | None
    permissions: int | None
    identity: tuple[int, int]

    @classmethod
    def of(cls, descriptor: int) -> FileDetails:
        """Ask about an open file."""
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino)
        if not stat.S_ISREG(found.st_mode):
            return cls(None, None, identity)
        return cls(found.st_size, stat.S_IMODE(found.st_mode), identity)


class StreamFile:
    """An open input, read as what is in it. ``name`` is for messages."""

    def __init__(self, name: str, raw: io.FileIO, details: FileDetails, bar: Progress | None) -> None:
        self.name = name
        self.details = details
        self._raw = raw
        self._bar = bar
        head = _read_exactly(raw, _LONGEST_MAGIC)
        self.compression = next((kind for kind, magic in _MAGICS.items() if head.startswith(magic)), None)
        packed = io.BufferedReader(_Joined(head, raw), CHUNK_BYTES)
        self._content: io.BufferedIOBase = packed
        if self.compression is Compression.XZ:
            self._content = lzma.LZMAFile(packed)  # noqa: SIM115 - closed with what it reads from
        elif self.compression is Compression.GZIP:
            self._content = gzip.GzipFile(fileobj=packed)
        self._read_bytes = 0
        self._seen = b""

    def chunks(self) -> Iterator[bytes]:
        """The content, at most :data:`CHUNK_BYTES` at a time. Raises :class:`InputError` if it cannot be unpacked."""
        while chunk := self.read():
            yield chunk

    def first(self) -> bytes:
        """The first chunk, which :meth:`read` will give again: for telling what the file is."""
        self._seen = self.read()
        return self._seen

    def read(self) -> bytes:
        """The next chunk, empty at the end."""
        if self._seen:
            chunk, self._seen = self._seen, b""
            return chunk
        try:
            # What there is, at most that much: a pipe's reader must not wait for a whole chunk.
            chunk = self._content.read1(CHUNK_BYTES)
        except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise InputError(f"{plain(self.name)}: cannot be unpacked as {self.compression}: {error}") from error
        except OSError as error:
            # A read that fails names no file, and there is an output that could be meant as well.
            raise type(error)(error.errno, error.strerror, self.name) from error
        self._read_bytes += len(chunk)
        if self._bar is not None:
            # For a regular file the position counts, which is that of the packed bytes.
            self._bar.advance_to(self._raw.tell() if self.details.size is not None else self._read_bytes)
        return chunk


@contextmanager
def open_stream(path: str) -> Iterator[StreamFile]:
    """Open a stream file, ``-`` for standard input. Raises :class:`OSError` if it cannot be opened."""
    standard_input = path == STANDARD_INPUT
    name = "standard input" if standard_input else path
    # Unbuffered: a pipe gives what it has, and a chunk of a file is one read.
    with open(0 if standard_input else path, "rb", buffering=0, closefd=not standard_input) as raw:
        details = FileDetails.of(raw.fileno())
        with progress(f"reading {name}", details.size) as bar:
            yield StreamFile(name, raw, details, bar)


def _read_exactly(raw: io.FileIO, count: int) -> bytes:
    """Up to ``count`` bytes; fewer only at the end. A pipe may give them one by one."""
    data = b""
    while len(data) < count and (more := raw.read(count - len(data))):
        data += more
    return data


class _Joined(io.RawIOBase):
    """The bytes that were read to look at them, and then the rest."""

    def __init__(self, head: bytes, rest: io.FileIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        return self._rest.readinto(view)
