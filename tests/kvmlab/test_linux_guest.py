"""What the Linux guest prints is understood, also between the kernel's lines and cut in two by a migration."""

import pytest

from tests.kvmlab.catalogue import LabError
from tests.kvmlab.feed import Feed
from tests.kvmlab.linux_guest import Change, LinuxFacts, LinuxTick


def _facts(*lines: str) -> LinuxFacts:
    feed: Feed[str] = Feed("guest")
    for line in lines:
        feed.put(line)
    feed.end()
    return LinuxFacts(feed)


def test_only_a_whole_line_is_a_tick() -> None:
    facts = _facts(
        "timer0=3 disk=4 clean",
        "tick timer0=4 disk=5 clean",
        "tick timer0=5 disk=6 clean[   82.837856] process 1 (init) no longer affine to cpu1",
        "tick timer0=6 di",
    )
    assert facts.ticks() == [LinuxTick((("timer0", 4), ("disk", 5)), clean=True)]
    assert facts.ticks()[0].counts == (4, 5)


def test_changed_and_identity_are_told_apart() -> None:
    facts = _facts(
        "changed disk, block 37: reads -> has other contents",
        "changed tainted: 0 -> 4",
        "identity cpuinfo.0.Features: fp asimd: evtstrm -> fp asimd",
    )
    assert facts.changed() == [Change("disk, block 37", "reads", "has other contents"), Change("tainted", "0", "4")]
    assert [str(change) for change in facts.identity()] == ["cpuinfo.0.Features fp asimd: evtstrm -> fp asimd"]


def test_abilities_have_no_reason_and_inabilities_do() -> None:
    facts = _facts("has disk", "lacks cycles: No such file or directory", "tick disk=1 clean")
    assert facts.abilities() == {"disk": None, "cycles": "No such file or directory"}


async def test_a_tick_counts_only_when_every_worker_went_on() -> None:
    facts = _facts("tick timer0=3 disk=1 clean", "tick timer0=4 disk=2 changed")
    assert await facts.beyond((2, 1)) == LinuxTick((("timer0", 4), ("disk", 2)), clean=False)


async def test_some_more_goes_on_from_the_last_tick() -> None:
    facts = _facts("[    1.2] cacheinfo: none", "tick timer0=3 clean")
    with pytest.raises(LabError, match="ended without what was waited for"):
        await facts.some_more(1)


async def test_a_panic_is_told() -> None:
    with pytest.raises(LabError, match="Attempted to kill init"):
        await _facts("[    9.1] Kernel panic - not syncing: Attempted to kill init!").some_more()
