"""What proxyd does not carry is refused by its name while the guest runs on at the source."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.qemu import cells
from tests.qemu.cells import Bench
from tests.qemu.modes import DISK, NOT_YET, TLS, Mode
from tests.qemu.pairs import PAIRS, Pair

pytestmark = pytest.mark.qemu

PMU = {pair.source.name: pair for pair in PAIRS if pair.name.endswith("-pmu")}
GLOBAL = "migration.send-"
OLD = ("7.2", "10.0")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that is not carried."""

    mode: Mode
    says: str
    """What the refusal names."""
    dialled: bool = False
    """Whether the destination has begun to load by then."""


NAMES = {
    "huge-pages-postcopy": "RAM block list",
    "ignore-shared": "x-ignore-shared",
    "dirty-bitmaps": "iterable section 'dirty-bitmap'",
    "virtio-mem": "virtio-mem-device-early",
}
"""What the refusals of :data:`NOT_YET` name."""

REFUSALS = [
    *(Refusal(mode, NAMES[mode.name]) for mode in NOT_YET),
    Refusal(Mode("colo", ("x-colo",), versions=OLD), "COLO"),
    # The guest of an older source is lost if the destination does not take it, so the route must say that it may be.
    Refusal(Mode("postcopy-unproven", ("postcopy-ram",), versions=OLD), "postcopy-ram off"),
    Refusal(
        Mode("postcopy-preempt-unproven", ("postcopy-ram", "postcopy-preempt"), versions=OLD), "postcopy-ram off", {}
    ),
    Refusal(Mode("tls-on-a-plain-route", source_leg=TLS), "TLS handshake"),
    Refusal(Mode("block", ("block",), arguments=DISK, versions=("7.2",)), "iterable section 'block'"),
    Refusal(Mode("no-configuration", source_arguments=("-global", f"{GLOBAL}configuration=off")), "configuration"),
    Refusal(Mode("no-footers", source_arguments=("-global", f"{GLOBAL}section-footer=off")), "footer", dialled=True),
]

CELLS = [
    pytest.param(PMU[version], refusal, id=f"{refusal.mode.name}-{version}")
    for refusal in REFUSALS
    for version in refusal.mode.versions
]


@pytest.mark.parametrize(("pair", "refusal"), CELLS)
async def test_is_refused_by_name(bench: Bench, pair: Pair, refusal: Refusal, tmp_path: Path) -> None:
    await cells.refused_by_proxyd(bench, pair, refusal.mode, tmp_path, refusal.says, dialled=refusal.dialled)
