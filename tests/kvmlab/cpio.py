"""Write initramfs archives: cpio in the "newc" format.

Linux: Documentation/driver-api/early-userspace/buffer-format.rst.

The kernel accepts several archives one after the other, so a host's root file system can be put together
from parts that are cached by themselves.
"""

import stat
from dataclasses import dataclass, field


@dataclass(slots=True)
class Cpio:
    """An archive in the making. Parent directories are added as needed; everything belongs to root."""

    _parts: list[bytes] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def add_directory(self, name: str) -> None:
        """Add the directory *name* (no leading slash), once."""
        if name and name not in self._names:
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a regular file."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        """Return the archive with its trailer, padded so that another one may follow."""
        archive = b"".join([*self._parts, _member("TRAILER!!!", 0, b"", 0)])
        return archive + bytes(-len(archive) % 512)

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self.add_directory(name.rpartition("/")[0])
        self._names.add(name)
        self._parts.append(_member(name, mode, data, len(self._parts) + 1))


def _member(name: str, mode: int, data: bytes, inode: int) -> bytes:
    """One member: magic, 13 numbers of eight hex digits, name, data; name and data padded to four bytes."""
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, nlink, mtime, size, dev (2), rdev (2), length of the name, checksum (unused)
    numbers = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
    return b"".join([header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)])
