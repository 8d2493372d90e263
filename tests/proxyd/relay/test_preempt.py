"""Which silent connection is a preempt channel: a matter of time."""

from __future__ import annotations

from proxyd.relay.preempt import AT_SETUP_S, BEFORE_SWITCH_S, SETTLE_S, PreemptWindow

BEGAN = 100.0


def test_nothing_fits_a_migration_that_stays_precopy() -> None:
    window = PreemptWindow(BEGAN)
    assert not window.switch(BEGAN + 1)
    assert not any(map(window.fits, (0, BEGAN, BEGAN + 1, BEGAN + 1000)))


def test_a_new_machine_types_channel_comes_with_the_switch() -> None:
    window = PreemptWindow(BEGAN)
    window.advise("virt-8.0", visible=True)
    assert not any(map(window.fits, (BEGAN, BEGAN + 1000)))
    now = BEGAN + 1000
    assert window.switch(now)
    assert not window.switch(now + 1), "it is no news the second time"
    assert [window.fits(now - BEFORE_SWITCH_S - 1), window.fits(now), window.fits(now + 60)] == [False, True, True]


def test_an_old_machine_types_channel_comes_with_the_main_one() -> None:
    window = PreemptWindow(BEGAN)
    window.advise("virt-7.2", visible=True)
    assert [window.fits(BEGAN - 1), window.fits(BEGAN + AT_SETUP_S), window.fits(BEGAN + 2)] == [True, True, False]
    assert window.switch(BEGAN + 1000), "and late, if it was late"
    assert window.fits(BEGAN + 1000)


def test_what_cannot_be_seen_or_is_past_the_switch_fits_at_any_time() -> None:
    hidden, recovery = PreemptWindow(BEGAN), PreemptWindow(BEGAN)
    hidden.advise("pc-q35-9.0", visible=False)
    recovery.recover()
    for window in (hidden, recovery):
        assert window.fits(BEGAN - 1)
        assert window.fits(BEGAN + 1000)
        assert not window.switch(BEGAN + 1000)


def test_there_is_only_one() -> None:
    window = PreemptWindow(BEGAN)
    window.recover()
    window.take()
    assert not window.fits(BEGAN)


def test_a_source_that_sets_its_channel_up_must_not_fail_meanwhile() -> None:
    window = PreemptWindow(BEGAN)
    assert window.unsettled(BEGAN) == 0
    window.advise("virt-8.0", visible=True)
    assert window.unsettled(BEGAN) == 0, "it connects later"
    window.advise("virt-7.2", visible=True)
    assert window.unsettled(BEGAN + 0.5) == SETTLE_S - 0.5
    assert window.unsettled(BEGAN + 10) == 0
