"""What fetching says when Debian no longer has a thing. (That it works, every QEMU test shows.)"""

from pathlib import Path

import pytest

from tests.debian import FetchError, fetch_prefix, fetch_source_file
from tests.debian.apt import Apt

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module", autouse=True)
def indexes() -> None:
    """Let the shared cache keep the index of a small suite, so that these tests are quick the second time."""
    Apt.make(["bookworm-backports"], "amd64")


def test_package_that_is_gone_is_named_with_its_suite() -> None:
    with pytest.raises(FetchError, match=r"qemu-gone \(amd64\) from Debian bookworm-backports: .*qemu-gone"):
        fetch_prefix(["bookworm-backports"], "amd64", ["qemu-gone"])
    with pytest.raises(FetchError, match=r"linux-gone \(amd64\) from Debian bookworm-backports: .*linux-gone"):
        fetch_prefix(["bookworm-backports"], "amd64", ["linux-gone"], deps=False)


def test_suite_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYD_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match=r"Debian potato \(amd64\): no index"):
        fetch_prefix(["potato"], "amd64", ["bash"])


def test_pool_path_needs_a_checksum() -> None:
    with pytest.raises(FetchError, match=r"pool/x\.deb: expected #sha256=HEX"):
        fetch_prefix(["bookworm-backports"], "amd64", [], extra_pool_paths=["pool/x.deb"])


def test_source_that_is_gone_is_named_with_every_suite_tried() -> None:
    with pytest.raises(FetchError, match=r"a/file of the source package gone from Debian bookworm-backports.*gone"):
        fetch_source_file(["bookworm-backports"], "gone", "a/file")
