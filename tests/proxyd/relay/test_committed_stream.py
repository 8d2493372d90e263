"""A recovering postcopy's stream passes as it is."""

from __future__ import annotations

import pytest

from proxyd.metrics import Metrics
from proxyd.relay.committed_stream import a_recovery
from proxyd.relay.intake import Intake
from proxyd.rewrite.rehearsal import Rehearsal
from tests import builders as b


async def test_everything_passes_and_nothing_is_held() -> None:
    stream = a_recovery()
    intake = Intake(stream, "lab", Metrics())
    assert intake.is_pipe
    assert intake.feed(b.RECV_BITMAP) == [b.RECV_BITMAP]
    assert intake.feed(b"QEVM and whatever") == [b"QEVM and whatever"]
    assert intake.finish() == []
    assert (stream.bytes_in, stream.held_bytes, intake.released) == (len(b.RECV_BITMAP) + 17, 0, None)
    intake.close()


def test_there_is_nothing_to_rehearse() -> None:
    with pytest.raises(AssertionError, match="nothing to rehearse"):
        a_recovery().release(Rehearsal((), (), "7.3", 0, 0.0))
