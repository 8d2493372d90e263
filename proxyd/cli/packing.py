"""Packing and unpacking streams: by Python's own libraries, or by the programs that libvirt runs.

gzip, bzip2 and xz are in the standard library. zstd (Python 3.11 has none) and lzop are run as libvirt runs them,
``-dc`` and ``-c``, so that what is written is what libvirt would have written.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tempfile
import zlib
from enum import StrEnum
from typing import BinaryIO, Final, Protocol

from proxyd.cli.exit_codes import UnreachableError


class Compression(StrEnum):
    """What a file is packed with; the value is the program's name, and the Debian package's."""

    XZ = "xz"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    ZSTD = "zstd"
    LZOP = "lzop"


MAGICS: Final = {
    Compression.XZ: b"\xfd7zXZ\x00",
    Compression.GZIP: b"\x1f\x8b",
    Compression.BZIP2: b"BZh",
    Compression.ZSTD: b"\x28\xb5\x2f\xfd",
    Compression.LZOP: b"\x89LZO\x00\r\n\x1a\n",
}

# What qemu_saveimage.c adds to -dc: warnings are no reason not to restore.
_UNPACK_OPTIONS: Final = {Compression.LZOP: ("--ignore-warn",)}

# qemu_saveimage.c runs gzip and bzip2 with their defaults, and xz -3.
_GZIP_LEVEL: Final = 6
_XZ_PRESET: Final = 3

# What a program may say on standard error and we repeat.
_MAX_SAID: Final = 500

UNPACK_ERRORS: Final = (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError)


class UnpackError(Exception):
    """The bytes are not what the compression writes, or end too early. The message says what the unpacker said."""


class Unpacker(Protocol):
    """Unpacked bytes."""

    def read1(self, size: int, /) -> bytes:
        """At most ``size`` bytes, as many as there are now; none at the end."""

    def close(self) -> None:
        """Stop."""


class Packer(Protocol):
    """Takes bytes to pack. ``close`` writes what is left."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take the next bytes."""

    def close(self) -> None:
        """That was all. Raises if not everything was written."""


def needs_program(kind: Compression) -> bool:
    """Whether it takes a program, whose input must be a file or a pipe of its own."""
    return kind in (Compression.ZSTD, Compression.LZOP)


def unpacker(kind: Compression, packed: io.BufferedIOBase | io.RawIOBase) -> Unpacker:
    """Unpack ``packed`` from its position on; for a program that is its file descriptor's.

    Raises :class:`UnreachableError` where the program is missing. Reading raises :class:`UnpackError` or one of
    :data:`UNPACK_ERRORS`.
    """
    if kind is Compression.XZ:
        return lzma.LZMAFile(_buffered(packed))
    if kind is Compression.GZIP:
        return gzip.GzipFile(fileobj=_buffered(packed))
    if kind is Compression.BZIP2:
        return _Bzip2(_buffered(packed))
    return _Unpacking(_program(kind), ["-dc", *_UNPACK_OPTIONS.get(kind, ())], packed.fileno())


def packer(kind: Compression, output: BinaryIO) -> Packer:
    """Pack into ``output``, from its position on, as libvirt packs. Raises as :func:`unpacker`."""
    if kind is Compression.XZ:
        return lzma.LZMAFile(output, "wb", preset=_XZ_PRESET)
    if kind is Compression.GZIP:
        return gzip.GzipFile(fileobj=output, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0, filename="")
    if kind is Compression.BZIP2:
        return bz2.BZ2File(output, "wb")
    output.flush()
    return _Packing(_program(kind), output.fileno())


def abandon(one: Packer) -> None:
    """What was packed is not wanted: stop, and say nothing."""
    if isinstance(one, _Packing):
        one.abandon()
    else:
        one.close()


def _program(kind: Compression) -> str:
    path = shutil.which(kind)
    if path is None:
        raise UnreachableError(f"the program {kind} is needed for this file, and not installed (apt install {kind})")
    return path


def _buffered(packed: io.BufferedIOBase | io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(packed, 1 << 20)


class _Bzip2(bz2.BZ2File):
    """Says what is wrong as the others do: BZ2File raises a bare OSError for bytes that are none of bzip2's."""

    def read1(self, size: int = -1) -> bytes:
        try:
            return super().read1(size)
        except OSError as error:
            if error.errno is None:
                raise UnpackError(str(error)) from error
            raise


class _Running:
    """A program with one end of its work in our hands; what it says is kept for the error."""

    def __init__(self, argv: list[str], *, stdin: int, stdout: int) -> None:
        # A file and no pipe: nobody has to read it while the program works.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the program
        self.process = subprocess.Popen(  # noqa: S603 - one of two names, found on PATH
            argv, stdin=stdin, stdout=stdout, stderr=self._said, bufsize=0
        )
        self.name = os.path.basename(argv[0])

    def complaint(self) -> str | None:
        """Wait for its end; what went wrong, or None."""
        status = self.process.wait()
        self._said.seek(0)
        said = " ".join(self._said.read(_MAX_SAID).decode("utf-8", "replace").split())
        self._said.close()
        return None if status == 0 else f"{self.name} ended with status {status}: {said or 'it said nothing'}"

    def kill(self) -> None:
        """Stop it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._said.close()


class _Unpacking:
    def __init__(self, program: str, options: list[str], descriptor: int) -> None:
        self._running: _Running | None = _Running([program, *options], stdin=descriptor, stdout=subprocess.PIPE)
        self._output = self._running.process.stdout

    def read1(self, size: int, /) -> bytes:
        if self._output is None or self._running is None:
            return b""
        data: bytes = self._output.read(size)
        if not data:
            running, self._running = self._running, None
            self._output.close()
            if complaint := running.complaint():
                raise UnpackError(complaint)
        return data

    def close(self) -> None:
        if self._running is not None and self._output is not None:
            self._output.close()
            self._running.kill()
            self._running = None


class _Packing:
    def __init__(self, program: str, descriptor: int) -> None:
        self._running = _Running([program, "-c"], stdin=subprocess.PIPE, stdout=descriptor)
        self._closed = False

    def write(self, data: bytes | memoryview, /) -> int:
        pipe = self._running.process.stdin
        if pipe is None:
            raise AssertionError("a packer without a pipe")
        view = memoryview(data).cast("B")
        try:
            while len(view):
                view = view[pipe.write(view) :]
        except BrokenPipeError:
            self._end()
            raise UnreachableError(f"{self._running.name} ended before it had been given everything") from None
        return len(data)

    def close(self) -> None:
        if not self._closed:
            self._end()

    def abandon(self) -> None:
        if not self._closed:
            self._closed = True
            self._running.kill()
            pipe = self._running.process.stdin
            if pipe is not None:
                pipe.close()

    def _end(self) -> None:
        self._closed = True
        pipe = self._running.process.stdin
        if pipe is not None:
            pipe.close()
        complaint = self._running.complaint()
        if complaint is not None:
            raise UnreachableError(complaint)
