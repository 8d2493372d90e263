"""The services' units, judged by systemd itself.

The tools come with Debian's ``systemd``. Where they are missing these tests fail: a unit that nobody checked is no
hardened unit.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxyd.config import LimitsConfig, RehearsalConfig

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = UNITS / "proxyd.service"
REHEARSAL = UNITS / "proxyd-rehearse@.service"
REHEARSAL_SOCKET = UNITS / "proxyd-rehearse.socket"

MAX_EXPOSURE = 1.5


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.fail("systemd-analyze expected on this machine: apt-get install systemd")
    return found


def settings(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser["Service"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def installed(tmp_path: Path) -> Path:
    """The unit with this environment's program, which verify wants to see executable."""
    program = Path(sys.executable).with_name("proxyd")
    assert program.exists(), "proxyd is not installed beside this Python"
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/proxyd", str(program)))
    return unit


def test_the_unit_verifies_clean(analyze: str, tmp_path: Path) -> None:
    done = run(analyze, "verify", "--man=no", str(installed(tmp_path)))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_verify_would_notice(analyze: str, tmp_path: Path) -> None:
    unit = installed(tmp_path)
    unit.write_text(unit.read_text() + "\n[Service]\nProtectSytem=strict\n")
    assert "ProtectSytem" in run(analyze, "verify", "--man=no", str(unit)).stderr


def test_the_unit_with_the_example_of_an_override_verifies_clean(analyze: str, tmp_path: Path) -> None:
    unit = installed(tmp_path)
    program = str(Path(sys.executable).with_name("proxyd"))
    override = (UNITS / "override.example.conf").read_text().replace("/opt/proxyd/bin/proxyd", program)
    directory = tmp_path / "proxyd.service.d"
    directory.mkdir()
    (directory / "local.conf").write_text(override)
    done = run(analyze, "verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", [UNIT, REHEARSAL], ids=lambda unit: unit.name)
def test_the_exposure_is_small(analyze: str, unit: Path) -> None:
    done = run(analyze, "security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr
    (exposure,) = re.findall(r"Overall exposure level for proxyd\S*: (\d+\.\d+)", done.stdout)
    assert 0 < float(exposure) <= MAX_EXPOSURE


@pytest.mark.parametrize("unit", [UNIT, REHEARSAL], ids=lambda unit: unit.name)
def test_everything_that_is_not_locked_has_its_reason_beside_it(analyze: str, unit: Path) -> None:
    done = run(analyze, "security", "--offline=true", "--json=short", str(unit))
    open_doors = [entry["json_field"] for entry in json.loads(done.stdout) if not entry["set"] and entry["exposure"]]
    assert open_doors, "nothing is open: the format of the report has changed"
    comments = "\n".join(line for line in unit.read_text().splitlines() if line.startswith("#"))
    words = {
        "RootDirectoryOrRootImage": "RootDirectory=",
        "SupplementaryGroups": "the group that owns /dev/kvm",
        "RestrictAddressFamilies_AF_UNIX": "AF_UNIX",
        "RestrictAddressFamilies_AF_INET_INET6": "AF_INET",
    }
    missing = [door for door in open_doors if words.get(door, f"{door}=") not in comments]
    assert missing == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("LimitCORE", "0"),  # buffers hold guest memory
        ("MemorySwapMax", "0"),
        ("TimeoutStopSec", "infinity"),  # a migration past its commit point is never cut
        ("DynamicUser", "yes"),
        ("Restart", "on-failure"),
        ("KillMode", "control-group"),  # after an upgrade there are several processes, and each one drains
        ("NotifyAccess", "all"),
    ],
)
def test_what_the_manual_promises(key: str, value: str) -> None:
    assert settings(UNIT)[key] == value


def test_the_watchdog_is_slower_than_any_step() -> None:
    assert settings(UNIT)["WatchdogSec"] == "30s"


def test_there_are_files_enough_for_the_largest_number_of_sessions() -> None:
    most = 9 * 2048  # two sockets, two pipes, three files; limits.connections takes no more
    assert int(settings(UNIT)["LimitNOFILE"]) >= 2 * most + 1024


def test_there_is_room_for_the_connections_of_every_migration() -> None:
    assert int(settings(UNIT)["FileDescriptorStoreMax"]) >= 9 * LimitsConfig().connections
    assert "StartLimitIntervalSec=0" in UNIT.read_text().splitlines()


def test_the_rehearsal_units_verify_clean(analyze: str, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("proxyd"))
    for unit in (REHEARSAL, REHEARSAL_SOCKET):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/proxyd", program))
    done = run(analyze, "verify", "--man=no", str(tmp_path / REHEARSAL_SOCKET.name))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_rehearsal_has_one_device_and_the_daemon_none() -> None:
    assert settings(REHEARSAL)["DeviceAllow"] == "/dev/kvm rw"
    assert settings(REHEARSAL)["DevicePolicy"] == "closed"
    assert settings(UNIT)["PrivateDevices"] == "yes"
    assert "DeviceAllow" not in settings(UNIT)


def test_a_process_for_each_connection() -> None:
    lines = REHEARSAL_SOCKET.read_text().splitlines()
    assert "Accept=yes" in lines
    assert f"ListenStream={RehearsalConfig().socket}" in lines
    assert "MaxConnections=64" in lines  # one for each migration that hands its guest over at this moment
    assert settings(REHEARSAL)["StandardInput"] == "socket"
    assert settings(REHEARSAL)["ExecStart"] == "/usr/bin/proxyd rehearsal-service"
