"""virsh save and restore with a rewrite in between: the recipes of docs/operations.md, and the same without it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.libvirt.rack import Rack
from tests.qemu.daemon import PROXYD
from tests.qemu.pairs import PMU_CHANGES, TOO_MANY
from tests.recipes import commands, recipe

pytestmark = pytest.mark.qemu

PROFILE = Path(__file__).parent.parent / "qemu" / "profiles" / "without-pmu.toml"
CHANGED = {"ok", *(f"id:{register}" for register in PMU_CHANGES)}


def lines(name: str, replacements: dict[str, str]) -> list[list[str]]:
    """Return the commands of a recipe; the page's description of the host is a profile here."""
    text = recipe(name, {"GUEST": "guest", "--destination HOST.json": f"--profile {PROFILE}", **replacements})
    return [shlex.split(line) for line in commands(text)]


def proxyd(command: list[str]) -> None:
    """Run a proxyd command of a recipe, with the machine's files."""
    assert command[0] == "proxyd"
    done = subprocess.run([str(PROXYD), *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("image_format", ["raw", "gzip", "zstd", "sparse"])
def test_save_recipe(racked: Rack, image_format: str) -> None:
    save, rewrite, restore = lines("save", {"/var/tmp": str(racked.shared)})
    racked.source.run(*save, "--image-format", image_format)
    assert racked.source.state("guest") == "shut off"
    direct = racked.destination.try_run("virsh", "restore", save[-1])
    assert direct.status == 1
    log = racked.destination.path("/var/log/libvirt/qemu/guest.log").read_text()
    assert re.search(TOO_MANY, re.sub(r"^\S+ qemu-system-aarch64: ", "", log, flags=re.MULTILINE)), direct.output + log
    proxyd(rewrite)
    racked.destination.run(*restore)
    assert racked.is_intact_at(racked.destination)
    assert racked.said() == CHANGED


def test_control_save_and_restore_on_the_same_host(racked: Rack) -> None:
    image = racked.shared / "control.save"
    racked.source.virsh("save", "guest", str(image))
    racked.source.virsh("restore", str(image))
    assert racked.is_intact_at(racked.source)
    assert racked.said() == {"ok"}


def test_managedsave_recipe(racked: Rack) -> None:
    """The host is the same after its kernel was replaced: here its QEMU loses the PMU."""
    save, rewrite, start = lines("managedsave", {"/var/lib/libvirt/qemu/save": str(racked.source.saved)})
    racked.source.run(*save)
    emulators = [host.path("/opt/qemu") for host in racked.hosts]
    old, new = (path.read_text() for path in emulators)
    emulators[0].write_text(new)
    try:
        proxyd(rewrite)
        racked.source.run(*start)
        assert racked.is_intact_at(racked.source)
        assert racked.said() == CHANGED
    finally:
        emulators[0].write_text(old)
