"""docs/extending.md shows an entry that loads, and names what an entry can say."""

from __future__ import annotations

import re

from formats.arm64.register_id import id_of
from proxyd.rewrite.knowledge import CaseAction
from proxyd.rewrite.knowledge_file import parse_knowledge
from tests.knowledge.page import PAGE

EXTENDING = PAGE.with_name("extending.md").read_text(encoding="ascii")


def test_the_entry_loads() -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", EXTENDING, re.DOTALL)
    text = "\n".join(line.removeprefix("   ") for line in shown.splitlines())
    assert list(parse_knowledge([("extending.md", text.encode())]).entries) == [id_of("PMMIR_EL1")]


def test_every_action_is_named() -> None:
    for action in CaseAction:
        assert f"| case `{action}` |" in EXTENDING
