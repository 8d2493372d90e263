"""What a daemon has to make of a recorded stream: the same core, without a daemon."""

from __future__ import annotations

from proxyd.rewrite.host import HostDescription
from proxyd.rewrite.knowledge import Knowledge
from proxyd.rewrite.plan import Destination
from proxyd.rewrite.policy import ReturnPathPolicy, RewritePolicy
from proxyd.rewrite.rewriter import StreamRewriter
from tests import recorded

HOST = recorded.host_json("7.3", "neoverse-n1")


def offline(wire: bytes) -> bytes:
    policy = RewritePolicy(
        Destination(HostDescription.parse(HOST, "host")), Knowledge.builtin(), return_path=ReturnPathPolicy.OPTIONAL
    )
    rewriter = StreamRewriter(policy)
    out = b"".join(bytes(buffer) for buffer in rewriter.feed(wire))
    rewriter.finish()
    return out
