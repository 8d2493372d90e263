"""The QEMU versions under test, out of Debian packages; each runs beside the others from its own prefix."""

from dataclasses import dataclass

from tests.debian import command_in, fetch_prefix


@dataclass(frozen=True, slots=True)
class Version:
    """A QEMU that some Debian suite has."""

    name: str
    suites: tuple[str, ...]
    machine: str
    """The newest machine type of that version's own."""

    def command(self) -> list[str]:
        """Return the argument list that starts it; fetches it first if the cache does not have it."""
        prefix = fetch_prefix(self.suites, "amd64", ["qemu-system-arm"])
        return [*command_in(prefix, "usr/bin/qemu-system-aarch64"), "-L", str(prefix / "usr/share/qemu")]


QEMU_7_2 = Version("7.2", ("bookworm",), "virt-7.2")
QEMU_10_0 = Version("10.0", ("trixie",), "virt-10.0")
QEMU_11_1 = Version("11.1", ("trixie-backports", "trixie"), "virt-11.1")
