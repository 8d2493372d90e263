"""Copying files with holes: what is a hole stays one, and where the file system can share blocks, nothing is copied.

Mapped-ram files are as large as the guest's memory and mostly holes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Final

# linux/fs.h: share all blocks of one file with another (XFS, Btrfs, bcachefs ...)
FICLONE: Final = 0x40049409

# File systems share whole blocks; none has larger ones than this.
BLOCK_BYTES: Final = 64 << 10

_COPY_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(BLOCK_BYTES)
_CANNOT_COPY: Final = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def clone(source: int, target: int) -> bool:
    """Let ``target`` share all of ``source``'s blocks. False where the file system cannot."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def data_extents(descriptor: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of ``start`` to ``stop`` that are no holes, as (first byte, byte behind the last)."""
    while start < stop:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the file's end
                return
            raise
        if start >= stop:
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), stop)
        yield start, end
        start = end


def copy_range(source: int, target: int, start: int, stop: int) -> None:
    """Copy the bytes from ``start`` to ``stop`` to the same place of ``target``; holes are left out.

    ``target`` must have a hole, or nothing, where ``source`` has one. Moves the offset of both.
    """
    for first, last in data_extents(source, start, stop):
        # Only whole blocks can be shared, so the odd ends go by themselves.
        inner = min(-(-first // BLOCK_BYTES) * BLOCK_BYTES, last)
        outer = max(last // BLOCK_BYTES * BLOCK_BYTES, inner)
        for one, other in ((first, inner), (inner, outer), (outer, last)):
            _copy(source, target, one, other)


def _copy(source: int, target: int, start: int, stop: int) -> None:
    while start < stop:
        try:
            done = os.copy_file_range(source, target, stop - start, start, start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
            done = 0
        if not done:
            done = _copy_by_hand(source, target, start, stop)
        if not done:
            return
        start += done


def _copy_by_hand(source: int, target: int, start: int, stop: int) -> int:
    data = os.pread(source, min(_COPY_BYTES, stop - start), start)
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], start + written)
    return written


def sparse_digest(descriptor: int, stop: int) -> str:
    """A SHA-256 of the file's first ``stop`` bytes that is the same whether zeros are written or are holes.

    Over every block of 64 KiB that is not all zero (the last may be shorter): its offset as be64, then its bytes.
    """
    digest = hashlib.sha256()
    done = 0
    for first, last in data_extents(descriptor, 0, stop):
        start = max(first // BLOCK_BYTES * BLOCK_BYTES, done)
        while start < last:
            chunk = os.pread(descriptor, min(_COPY_BYTES, stop - start), start)
            if not chunk:
                raise OSError(errno.EIO, "the file became shorter while it was read")
            # A chunk that ends inside a block would give it two halves, so only whole blocks are taken.
            if len(chunk) > BLOCK_BYTES and start + len(chunk) < stop:
                chunk = chunk[: len(chunk) // BLOCK_BYTES * BLOCK_BYTES]
            for at in range(0, len(chunk), BLOCK_BYTES):
                block = chunk[at : at + BLOCK_BYTES]
                if block != _ZEROS[: len(block)]:
                    digest.update((start + at).to_bytes(8, "big"))
                    digest.update(block)
            start += len(chunk)
        done = max(done, start)
    return digest.hexdigest()
