"""One file that holds a stream, rewritten into another, and the proof that the guest's memory is the same in both.

What stands around the stream stays as it is: a save image's head byte by byte, its compression, a mapped-ram file's
places and holes. The proof reads back what was written, before it gets its name.

What it is not: it does not choose files and names nothing; :mod:`proxyd.cli.rewrite` does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from proxyd.cli.exit_codes import CommandError, InputError, RefusedError, UsageError
from proxyd.cli.packing import abandon, packer
from proxyd.cli.sparse_copy import clone, copy_range, sparse_digest
from proxyd.cli.stream_file import StreamFile, open_stream
from proxyd.cli.terminal import plain
from proxyd.rewrite.plan import Outcome
from proxyd.rewrite.rewriter import StreamRewriter

if TYPE_CHECKING:
    from proxyd.cli.packing import Packer
    from proxyd.rewrite.policy import RewritePolicy

PLAIN: Final = "sha256"
SPARSE: Final = "sha256-nonzero-64KiB"


class NotIdentical(CommandError):
    """What was written reads back differently: the disk, the file system, a compressor, or a bug of ours."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What was compared in both files: ``ram_bytes`` of the stream from its beginning, before the device part.

    ``digest`` is a SHA-256 of these bytes (with ``algorithm`` :data:`SPARSE` as
    :func:`~proxyd.cli.sparse_copy.sparse_digest` takes it), found the same in both.
    """

    ram_bytes: int
    algorithm: str
    digest: str


class Reading:
    """The input on its way through the rewriter, hashed as it passes.

    After the last chunk ``ram_bytes`` and ``digest`` are those of everything before the device part.
    """

    def __init__(self, file: StreamFile, policy: RewritePolicy) -> None:
        self.rewriter = StreamRewriter(policy, seekable_from=file.seekable_from)
        self.file = file
        self.jumped_to: int | None = None
        self._begin = file.seekable_from or 0
        self._position = self._begin
        self._jumps = 0
        self._hash = hashlib.sha256()

    @property
    def sparse(self) -> bool:
        """Whether it is a mapped-ram file."""
        return self._jumps > 0

    def feed(self, chunk: bytes) -> list[bytes | memoryview]:
        """The buffers to write. The stream then goes on at file offset ``jumped_to``, if that is not None."""
        out = self.rewriter.feed(chunk)
        self.jumped_to = None
        tail = self.rewriter.tail_offset
        if not self.sparse:
            self._hash.update(chunk if tail is None else chunk[: max(tail - self._position, 0)])
        self._position += len(chunk)
        if self.rewriter.jumps != self._jumps:
            # Counted, for where it goes on may just be where the chunk ended.
            self._jumps = self.rewriter.jumps
            self._position = self.rewriter.offset
            self.file.go_to(self._position)
            self.jumped_to = self._position
        return out

    def finish(self) -> None:
        """The input ended. Raises :class:`~formats.errors.FormatError`, :class:`InputError`, :class:`RefusedError`."""
        self.rewriter.finish()
        if self.rewriter.forced is not None:
            # On a wire a postcopy package has to go on whatever it is; in a file nobody is lost.
            raise RefusedError(f"{plain(self.file.name)}: {self.rewriter.forced}")
        if not self.file.unchanged():
            raise InputError(f"{plain(self.file.name)}: was written to while it was read")

    @property
    def ram_bytes(self) -> int:
        """Bytes of the stream before the device part; all, of a stream that passes unchanged."""
        tail = self.rewriter.tail_offset
        return (self._position if tail is None else tail) - self._begin

    def identity(self) -> Identity:
        """What the memory of the input is."""
        if self.sparse:
            return Identity(self.ram_bytes, SPARSE, sparse_digest(self.file.descriptor, self._begin + self.ram_bytes))
        return Identity(self.ram_bytes, PLAIN, self._hash.hexdigest())


@dataclass(frozen=True, slots=True)
class Written:
    """``content_bytes`` of the stream as it is now; ``identity`` is None where nothing was, or could be, proven."""

    content_bytes: int
    identity: Identity | None


def survey(reading: Reading) -> None:
    """Read the input to its end, and write nothing. Raises as the rewriter does."""
    for chunk in reading.file.chunks():
        reading.feed(chunk)
    reading.finish()


def changes_nothing(rewriter: StreamRewriter) -> bool:
    """Whether what was read leaves as it came."""
    return rewriter.report is None or rewriter.report.plan.outcome is Outcome.LOADS_AS_IS


def write(reading: Reading, output: BinaryIO, *, new_file: bool, prove: bool) -> Written:
    """Rewrite the input into ``output``; only a ``new_file`` of our own can be proven, share blocks and have holes.

    Raises as the rewriter does, :class:`OSError`, :class:`NotIdentical`, and :class:`UsageError` for a mapped-ram file
    that is to go to a pipe.
    """
    file = reading.file
    cloned = new_file and file.seekable_from is not None and clone(file.descriptor, output.fileno())
    output.write(file.head)
    if file.image is None or file.compression is None:
        content_bytes, tail = _write_stream(reading, output, output, new_file=new_file, cloned=cloned)
    else:
        packed = packer(file.compression, output)
        try:
            content_bytes, tail = _write_stream(reading, packed, output, new_file=new_file, cloned=False)
        except BaseException:
            abandon(packed)
            raise
        packed.close()
    output.flush()
    return Written(content_bytes, _prove(reading, output, tail) if new_file and prove else None)


def _write_stream(
    reading: Reading, packed: Packer | BinaryIO, output: BinaryIO, *, new_file: bool, cloned: bool
) -> tuple[int, str]:
    """Write the stream into ``packed``, which ends in ``output``. Returns its bytes, and the device part's SHA-256."""
    file = reading.file
    content_bytes = 0
    tail = hashlib.sha256()
    for chunk in file.chunks():
        for buffer in reading.feed(chunk):
            if cloned and reading.rewriter.tail_offset is not None:
                cloned = False
                output.truncate()
            if cloned:
                output.seek(len(buffer), os.SEEK_CUR)
            else:
                packed.write(buffer)
            if reading.rewriter.tail_offset is not None:
                tail.update(buffer[max(reading.ram_bytes - content_bytes, 0) :])
            content_bytes += len(buffer)
        if reading.jumped_to is not None:
            if not new_file:
                raise UsageError(
                    f"{plain(file.name)}: a mapped-ram file cannot go through a pipe: a file as OUT expected"
                )
            content_bytes += _jump(reading.jumped_to, file, output, cloned=cloned)
    reading.finish()
    return content_bytes, tail.hexdigest()


def _jump(to: int, file: StreamFile, output: BinaryIO, *, cloned: bool) -> int:
    start = output.tell()
    output.flush()
    if not cloned:
        copy_range(file.descriptor, output.fileno(), start, to)
        file.go_to(to)
    output.seek(to)
    return to - start


def _prove(reading: Reading, output: BinaryIO, tail: str) -> Identity:
    """Read ``output`` back. ``tail`` is the SHA-256 of the device part as it was released."""
    file = reading.file
    expected = reading.identity()
    # By its number: it has no name yet. A file of its own, because reading moves the position.
    with open_stream(f"/proc/self/fd/{output.fileno()}", "proving", file.name) as copy:
        before, behind, total = hashlib.sha256(), hashlib.sha256(), 0
        if expected.algorithm == SPARSE:
            begin = copy.seekable_from or 0
            same = sparse_digest(copy.descriptor, begin + expected.ram_bytes) == expected.digest
            copy.go_to(begin + expected.ram_bytes)
            for chunk in copy.chunks():
                behind.update(chunk)
        else:
            for chunk in copy.chunks():
                split = max(expected.ram_bytes - total, 0)
                before.update(chunk[:split])
                behind.update(chunk[split:])
                total += len(chunk)
            same = before.hexdigest() == expected.digest
        head = copy.head
    if not same or head != file.head or (reading.rewriter.tail_offset and behind.hexdigest() != tail):
        raise NotIdentical(f"{plain(file.name)}: the copy was read back and is not what was written: it is thrown away")
    return expected
