"""Writing a file that is there whole or not at all.

What is written goes to a temporary file in the same directory, which takes the output's name only when everything is
on disk. On an error or Ctrl-C it is removed, and what had the name before is as it was. Pipes and devices have no
second name: they get the bytes as they come.

In place, the output takes the input's name, with its owner, permissions and extended attributes (SELinux labels,
libvirt's own notes of who owned it). It does not take its times: what has changed should look so to a backup.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from proxyd.cli.exit_codes import UsageError
from proxyd.cli.stream_file import FileDetails

STANDARD_OUTPUT: Final = "-"

# A saved stream is the guest's memory. Where the input says nothing, nobody else may read it.
PRIVATE: Final = 0o600

_SUFFIX: Final = ".partial"


@contextmanager
def open_output(path: str, source: FileDetails, *, in_place: bool = False) -> Iterator[BinaryIO]:
    """A file to write to; it appears as ``path`` when the block ends without an exception.

    ``source`` describes the input: the output gets its permissions, and may be the same file only ``in_place``.
    What was written can be read back from a regular file's descriptor. Raises :class:`OSError` where it cannot be
    written, :class:`UsageError` if it is the input.
    """
    try:
        yield from _open(path, source, in_place=in_place)
    except OSError as error:
        if error.errno is None or not (error.filename is None or str(error.filename).endswith(_SUFFIX)):
            raise
        # A write that fails names no file, and of the temporary one nobody has heard.
        name = "standard output" if path == STANDARD_OUTPUT else path
        raise type(error)(error.errno, error.strerror, name) from error


def _open(path: str, source: FileDetails, *, in_place: bool) -> Iterator[BinaryIO]:
    if path == STANDARD_OUTPUT:
        with open(1, "wb", closefd=False) as output:
            yield output
        return
    target = Path(path).resolve()
    there = _stat(target)
    if not in_place and there is not None and (there.st_dev, there.st_ino) == source.identity:
        raise UsageError(f"{path} is the input itself (--in-place replaces it)")
    if in_place and (there is None or (there.st_dev, there.st_ino) != source.identity or source.size is None):
        raise UsageError(f"{path}: a regular file expected, to replace it in place, found another file")
    if in_place and there is not None and there.st_nlink > 1:
        raise UsageError(f"{path}: has {there.st_nlink} names (hard links), the others would keep the old content")
    if there is not None and not stat.S_ISREG(there.st_mode):
        with target.open("wb") as output:
            yield output
        return
    permissions = PRIVATE if source.permissions is None else source.permissions
    with _replacing(target, permissions, like=target if in_place else None) as output:
        yield output


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@contextmanager
def _replacing(target: Path, permissions: int, like: Path | None) -> Iterator[BinaryIO]:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_SUFFIX, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield output
            output.flush()
            if like is not None:
                _look_like(descriptor, like)
            os.fchmod(descriptor, permissions)
            os.fsync(descriptor)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _look_like(descriptor: int, like: Path) -> None:
    """Give the file another one's owner and extended attributes. Raises :class:`PermissionError` for the owner only."""
    there = like.stat()
    os.fchown(descriptor, there.st_uid, there.st_gid)
    for name in os.listxattr(like):
        # A label that only root may set is not worth the guest: whoever starts it labels it anyway.
        with suppress(OSError):
            os.setxattr(descriptor, name, os.getxattr(like, name))


def _sync_directory(directory: Path) -> None:
    """The rename itself is on disk only when the directory is."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
