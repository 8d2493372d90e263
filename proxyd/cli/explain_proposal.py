"""``explain --propose``: a failure's log, the stream and the destination, and the rule that would have fitted.

What is printed is a profile, with everything that is no rule in comments. Nothing applies it by itself.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from proxyd.cli.exit_codes import ExitCode, InputError, UsageError

if TYPE_CHECKING:
    from proxyd.rewrite.draft import Proposal
    from proxyd.rewrite.plan import Plan

_HEAD: Final = (
    "a draft, made by 'proxyd explain --propose' from what was seen. Review it: nothing applies it by itself."
)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Propose, and try the proposal in a plan."""
    from proxyd.cli import terminal
    from proxyd.cli.explain import read_log
    from proxyd.cli.subject import load_host, load_subject
    from proxyd.rewrite.kernel import parse_kernel
    from proxyd.rewrite.knowledge import Knowledge
    from proxyd.rewrite.observation import observations
    from proxyd.rewrite.plan import Destination, make_plan
    from proxyd.rewrite.profile import Profile
    from proxyd.rewrite.proposal import propose
    from proxyd.rewrite.proposal_toml import knowledge_toml, profile_toml

    if arguments.stream is None or len(arguments.what) != 1:
        raise UsageError("--propose --stream STREAM [--destination HOST.json] LOGFILE expected")
    (name,) = arguments.what
    log = read_log(name)
    subject = load_subject(arguments.stream)
    host = None if arguments.destination is None else load_host(arguments.destination)
    seen = observations(log)
    if not seen:
        raise InputError(
            f"{terminal.plain(name)}: a failure over registers expected, found none (proxyd explain {name})"
        )
    knowledge = Knowledge.builtin()
    proposal = propose(seen, subject.vcpus, host, knowledge)
    release = None if host is None else parse_kernel(host.kernel)
    profile = profile_toml(proposal, f"to be reviewed: {'a destination' if host is None else host.name}")
    entries = knowledge_toml(proposal, None if release is None else str(release))
    plan: Plan | None = None
    if profile:
        destination = Destination(host, Profile.parse(profile.encode(), "the proposal"))
        plan = make_plan(subject.vcpus, destination, knowledge, frozenset(_to_allow(proposal)))
    if arguments.json:
        terminal.print_json("explain", _document(proposal, profile, entries, plan))
    else:
        sys.stdout.write(_text(proposal, profile, entries, plan))
    return ExitCode.DONE


def _to_allow(proposal: Proposal) -> list[int]:
    """Registers whose rules change something with loss: these have to be allowed by name."""
    return [rule.register for rule in proposal.rules if rule.verdict == "lossy" and rule.kind != "require"]


def _text(proposal: Proposal, profile: str, entries: str, plan: Plan | None) -> str:
    from proxyd.rewrite.proposal_toml import comments

    parts = ["\n".join(comments([_HEAD, *_tried(proposal, plan)])), profile.rstrip()]
    if entries:
        head = comments(["For the knowledge base, where it says nothing of this yet (proxyd/knowledge/*.toml):"])
        parts.append("\n".join(head + [f"# {line}".rstrip() for line in entries.strip().splitlines()]))
    if proposal.remarks:
        parts.append("\n".join(comments(["No rule was found for:", *proposal.remarks])))
    return "\n\n".join(part for part in parts if part) + "\n"


def _tried(proposal: Proposal, plan: Plan | None) -> list[str]:
    from formats.arm64.register_id import name_of
    from proxyd.cli.plan_view import OUTCOMES

    if plan is None:
        return []
    names = ", ".join(f'"{name_of(register)}"' for register in _to_allow(proposal))
    allowed = f", and allow = [{names}]," if names else ""
    still = [f"Still refused: {refusal}" for refusal in plan.refusals]
    return [f"With this profile{allowed} the plan for the stream is: {OUTCOMES[plan.outcome]}.", *still]


def _document(proposal: Proposal, profile: str, entries: str, plan: Plan | None) -> dict[str, Any]:
    from formats.arm64.register_id import name_of

    return {
        "profile": profile or None,
        "knowledge": entries or None,
        "allow": [name_of(register) for register in _to_allow(proposal)],
        "outcome": None if plan is None else plan.outcome.value,
        "remarks": list(proposal.remarks),
    }
