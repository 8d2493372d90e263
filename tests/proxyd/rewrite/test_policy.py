"""The defaults of a policy are the safe ones."""

from __future__ import annotations

from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy, StreamLimits


def test_defaults() -> None:
    policy = RewritePolicy(None, Knowledge())
    assert (policy.return_path, policy.allow) == (ReturnPathPolicy.REQUIRE, frozenset())
    limits = StreamLimits()
    assert (limits.device_state_bytes, limits.sections, limits.cpregs) == (64 << 20, 4096, 2048)
