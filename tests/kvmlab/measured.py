"""The results that are in the tree: what docs/compatibility.md is made of."""

from functools import cache
from pathlib import Path

from tests.kvmlab.results import Result, Results, read_results

DIRECTORY = Path(__file__).with_name("results")

UNNAMED: set[tuple[str, str]] = {("max", "FPCR")}
"""(CPU, register) that a guest finds changed and that proxyd neither names nor foresees. It is to be empty.

FPCR: on a CPU with FEAT_AFP, QEMU's load (target/arm/vfp_fpscr.c: vfp_set_fpscr) puts bits 2:0 of FPSR into FPCR too.
"""


@cache
def measured() -> Results:
    """Read all of them, in the order of their names. None at all is an error, not an empty test."""
    files = sorted(DIRECTORY.glob("*.jsonl.xz"))
    if not files:
        raise AssertionError(f"no results in {DIRECTORY}")
    return read_results(files)


def known_mismatches(result: Result) -> set[str]:
    """What of `judgement.mismatches` is known of this cell, because of UNNAMED."""
    found = {*result.direct.noticed, *result.proxied.noticed}
    known = [each for each in found if (result.cpu, each.register) in UNNAMED]
    return {
        text + str(each) for each in known for text in ("proxyd does not name ", "directly, it is not foreseen that ")
    }
