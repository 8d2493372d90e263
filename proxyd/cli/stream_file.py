"""Reading a file that is as large as a guest's memory: in chunks, with progress, from a pipe if need be.

What surrounds the stream is recognised by the file's first bytes: a libvirt save image's head, and any of libvirt's
compressions, with or without such a head. What comes out is the migration stream. It is not judged here.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from formats.errors import FormatError, TruncatedStream
from formats.files import libvirt_image
from formats.files.libvirt_image import SaveFormat, SaveImageHeader
from proxyd.cli.exit_codes import InputError
from proxyd.cli.packing import MAGICS, UNPACK_ERRORS, Compression, UnpackError, needs_program, unpacker
from proxyd.cli.terminal import Progress, plain, progress

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from proxyd.cli.packing import Unpacker

CHUNK_BYTES: Final = 1 << 20
STANDARD_INPUT: Final = "-"

_LOOK_BYTES: Final = max(libvirt_image.MAGIC_BYTES, *map(len, MAGICS.values()))

_PACKED: Final = {
    SaveFormat.GZIP: Compression.GZIP,
    SaveFormat.BZIP2: Compression.BZIP2,
    SaveFormat.XZ: Compression.XZ,
    SaveFormat.LZOP: Compression.LZOP,
    SaveFormat.ZSTD: Compression.ZSTD,
}


@dataclass(frozen=True, slots=True)
class FileDetails:
    """What the file system says of an input. All but ``identity`` are None where it is no regular file."""

    size: int | None
    permissions: int | None
    identity: tuple[int, int]
    modified_ns: int | None = None

    @classmethod
    def of(cls, descriptor: int) -> FileDetails:
        """Ask about an open file."""
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino)
        if not stat.S_ISREG(found.st_mode):
            return cls(None, None, identity)
        return cls(found.st_size, stat.S_IMODE(found.st_mode), identity, found.st_mtime_ns)


class StreamFile:
    """An open input, read as the stream that is in it. ``name`` is for messages.

    ``image`` is the header of a libvirt save image and ``head`` all that stands before its stream, as it stands there.
    ``seekable_from`` is the file offset of the stream where it lies open in a regular file, None elsewhere.
    """

    def __init__(self, name: str, raw: io.FileIO, details: FileDetails, bar: Progress | None) -> None:
        self.name = name
        self.details = details
        self.image: SaveImageHeader | None = None
        self.head = b""
        self.compression: Compression | None = None
        self.seekable_from: int | None = None
        self._raw = raw
        self._bar = bar
        self._read_bytes = 0
        self._seen = b""
        self._unpacker: Unpacker | None = None
        self._read1 = self._open()

    @property
    def descriptor(self) -> int:
        """The file's descriptor."""
        return self._raw.fileno()

    def _open(self) -> Callable[[int], bytes]:
        """Find out what the file is; returns what reads the stream in it."""
        looked_at = _read_exactly(self._raw, _LOOK_BYTES)
        regular = self.details.size is not None
        if libvirt_image.is_save_image(looked_at):
            self._read_image_head(looked_at)
            looked_at = b""
        else:
            self.compression = next((kind for kind, magic in MAGICS.items() if looked_at.startswith(magic)), None)
        if regular:
            # The exact position matters: a program that unpacks reads from the descriptor itself.
            self._raw.seek(len(self.head))
            looked_at = b""
        if self.compression is None:
            if regular:
                self.seekable_from = len(self.head)
                return self._read_raw
            return io.BufferedReader(_Joined(looked_at, self._raw), CHUNK_BYTES).read1
        if needs_program(self.compression) and looked_at:
            raise InputError(
                f"{plain(self.name)}: packed by {self.compression}: a file expected, found a pipe "
                f"(unpack on the way: {self.compression} -dc FILE | proxyd ...)"
            )
        packed = self._raw if needs_program(self.compression) else _Joined(looked_at, self._raw)
        self._unpacker = unpacker(self.compression, packed)
        return self._unpacker.read1

    def _read_raw(self, size: int) -> bytes:
        return cast("bytes", self._raw.read(size))

    def _read_image_head(self, magic: bytes) -> None:
        try:
            header = libvirt_image.parse_header(
                magic + _read_exactly(self._raw, libvirt_image.HEADER_BYTES - len(magic))
            )
            data = _read_exactly(self._raw, header.data_bytes)
            if len(data) < header.data_bytes:
                raise TruncatedStream(
                    f"a save image's XML and cookie of {header.data_bytes} bytes expected, found {len(data)}"
                )
        except FormatError as error:
            raise InputError(f"{plain(self.name)}: {plain(str(error))}") from error
        self.image = header
        self.head = header.raw + data
        self.compression = _PACKED.get(header.format)

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
            chunk = self._read1(CHUNK_BYTES)
        except (UnpackError, *UNPACK_ERRORS) as error:
            raise InputError(f"{plain(self.name)}: cannot be unpacked as {self.compression}: {error}") from error
        except OSError as error:
            # A read that fails names no file, and there is an output that could be meant as well.
            raise type(error)(error.errno, error.strerror, self.name) from error
        self._read_bytes += len(chunk)
        if self._bar is not None:
            # For a regular file the position counts, which is that of the packed bytes.
            self._bar.advance_to(self._raw.tell() if self.details.size is not None else self._read_bytes)
        return chunk

    def go_to(self, offset: int) -> None:
        """Go on at this file offset, where the stream is seekable: mapped-ram files are not read through."""
        if self.seekable_from is not None and offset != self._raw.tell():
            self._raw.seek(offset)

    def unchanged(self) -> bool:
        """Whether a regular file is still what it was when it was opened."""
        return FileDetails.of(self.descriptor) == self.details

    def close(self) -> None:
        """Stop what unpacks."""
        if self._unpacker is not None:
            self._unpacker.close()


@contextmanager
def open_stream(path: str, doing: str = "reading", name: str | None = None) -> Iterator[StreamFile]:
    """Open a stream file, ``-`` for standard input; ``doing`` and ``name`` say to people what is done with which.

    Raises :class:`OSError` if it cannot be opened.
    """
    standard_input = path == STANDARD_INPUT
    name = name or ("standard input" if standard_input else path)
    # Unbuffered: a pipe gives what it has, and a chunk of a file is one read.
    with open(0 if standard_input else path, "rb", buffering=0, closefd=not standard_input) as raw:
        details = FileDetails.of(raw.fileno())
        with progress(f"{doing} {name}", details.size) as bar:
            file = StreamFile(name, raw, details, bar)
            try:
                yield file
            finally:
                file.close()


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
