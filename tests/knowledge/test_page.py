"""docs/knowledge.md is what the data says."""

from __future__ import annotations

from formats.arm64.register_id import known_ids, name_of
from tests.knowledge.page import PAGE, page


def test_the_page_is_generated_from_the_data() -> None:
    assert PAGE.read_text(encoding="ascii") == page(), "python -m tests.knowledge.page writes it anew"


def test_registers_are_found_by_name() -> None:
    text = PAGE.read_text(encoding="ascii")
    for name in ("TCR2_EL1", "PMMIR_EL1", "FW_PSCI_VERSION", "ID_AA64MMFR2_EL1", "TIMER_CNT", "HCR_EL2"):
        assert name in text
    assert len(known_ids()) > 340
    assert name_of(known_ids()[0]) in text
