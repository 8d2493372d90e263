"""One file out of a Debian source package, taken from the upstream tarball that the signed index names."""

import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.debian.apt import Apt, FetchError, download
from tests.debian.cache import entry

_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<name>\S+\.orig\.tar\.\w+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")


def fetch_source_file(suites: Sequence[str], source: str, member: str) -> Path:
    """Return a copy of the file *member* (path below the tree's top) of the source package *source*.

    *suites* are tried in order, the newest version of each: a mirror may list a source whose tarball
    it does not have. The tarball is checked against the index's sha256 sum and not kept. Raises FetchError.
    """
    what = f"{member} of the source package {source} from Debian {', '.join(suites)}"

    def fill(directory: Path) -> None:
        reasons = []
        for suite in suites:
            try:
                _fill(directory, suite, source, member)
            except FetchError as error:
                reasons.append(f"{suite}: {error}")
            else:
                return
        raise FetchError(f"could not get {what}: {'; '.join(reasons)}")

    return entry(f"sources/{source}-{suites[0]}-{member.replace('/', '-')}", fill) / Path(member).name


def _fill(directory: Path, suite: str, source: str, member: str) -> None:
    apt = Apt.make([suite], "amd64")
    # --only-source: without it apt may take the name for a binary package's.
    lines = apt.get("source", "--only-source", "--print-uris", source, directory=directory).splitlines()
    found = next((match for match in map(_URI_LINE.match, lines) if match), None)
    if found is None:
        raise FetchError("the index names no .orig.tar with a sha256 sum")
    tarball = directory / found["name"]
    download(found["uri"], found["sha256"], tarball)
    with tarfile.open(tarball) as archive:
        for item in archive:  # one pass: a compressed tarball of this size takes seconds to rewind
            if item.name.partition("/")[2] == member and item.isfile():
                stream = archive.extractfile(item)
                if stream is None:
                    raise AssertionError("a regular file always has contents")
                with stream, (directory / Path(member).name).open("wb") as copy:
                    shutil.copyfileobj(stream, copy)
                break
        else:
            raise FetchError(f"{found['name']} has no file {member}")
    tarball.unlink()
    (directory / "origin.txt").write_text(f"{found['name']} sha256 {found['sha256']}\n")
