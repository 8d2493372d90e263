"""Programs out of Debian packages, for tests that need several versions of one program side by side.

A *prefix* is a directory in the cache (never in git) into which packages and the libraries they need are
unpacked; nothing is installed on the machine and no maintainer script runs, so it works for any architecture
and for any user. apt itself does the downloading, through a private configuration that reads only the suites
asked for: it follows the machine's mirror and proxy settings and checks signatures and sha256 sums.

    prefix = fetch_prefix(["trixie-backports", "trixie"], "amd64", ["qemu-system-arm"])
    argv = command_in(prefix, "usr/bin/qemu-system-aarch64")
    script = fetch_source_file(["trixie"], "qemu", "scripts/analyze-migration.py")
"""

from tests.debian.apt import FetchError
from tests.debian.cache import cache_directory
from tests.debian.prefix import command_in, fetch_prefix
from tests.debian.source import fetch_source_file

__all__ = ["FetchError", "cache_directory", "command_in", "fetch_prefix", "fetch_source_file"]
