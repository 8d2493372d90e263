"""docs/commands.md is true: its examples, verbs, options, exit codes, and the keys of the JSON documents."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxyd.cli.exit_codes import ExitCode
from proxyd.cli.main import VERBS, build_parser
from tests.proxyd.cli.command import FROM_7_3, HOST_7_3, RETURN_PATH, Run
from tests.proxyd.cli.examples import PAGE, Example, examples, printed
from tests.recorded import HOSTS

TEXT = PAGE.read_text()


def part(verb: str) -> str:
    """The page's part on one verb."""
    return TEXT.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.command)
def test_an_example_prints_what_the_page_says(example: Example) -> None:
    assert printed(example.command) == example.shown, "python -m tests.proxyd.cli.examples brings the page up to date"


def test_there_are_examples() -> None:
    assert len(examples()) >= 8


def options() -> Iterator[tuple[str, str]]:
    (verbs,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for verb, parser in verbs.choices.items():
        for action in parser._actions:
            for option in action.option_strings:
                if option not in {"-h", "--help", "--debug", "--output"}:
                    yield verb, option


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_part(verb: str) -> None:
    assert f"| [`{verb}`](#{verb}) |" in TEXT
    assert part(verb).startswith(f"\n    proxyd {verb}")


@pytest.mark.parametrize(("verb", "option"), list(options()))
def test_every_option_is_there(verb: str, option: str) -> None:
    assert option in part(verb)


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_there(code: ExitCode) -> None:
    assert f"{code.value}" in TEXT.partition("**Exit codes**")[2].partition("**Output.**")[0]


def keys(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            if key != "fields" or not isinstance(value, dict):  # an ID register's fields are names, not keys
                yield from keys(value)
    elif isinstance(document, list):
        for value in document:
            yield from keys(value)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("inspect", ["--registers", "--section", "cpu", RETURN_PATH]),
        ("diff", [RETURN_PATH, HOST_7_3]),
        ("plan", ["--destination", HOST_7_3, RETURN_PATH]),
        ("plan", [str(HOSTS / "6.12-neoverse-n1.json.xz"), str(HOSTS / "6.18-neoverse-n1.json.xz")]),
        ("diff", [str(HOSTS / "6.12-neoverse-n1.json.xz"), str(HOSTS / "6.18-neoverse-n1.json.xz")]),
        ("explain", ["Could not set register fw reg 0"]),
        ("demo", []),
    ],
)
def test_every_key_is_there(run: Run, verb: str, arguments: list[str]) -> None:
    documented = part(verb) + part("plan") + "`version` `command`"
    missing = {key for key in keys(run(verb, "--json", *arguments).document) if f"`{key}`" not in documented}
    assert not missing


def test_every_key_of_a_proposal_is_there(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    log.write_text("Could not set register fw reg 0 to 10003 (is 10001)")
    document = run("explain", "--propose", "--stream", FROM_7_3, "--json", log).document
    assert document["profile"]
    assert not {key for key in keys(document) if f"`{key}`" not in part("explain") + "`version` `command`"}


def test_every_key_of_a_refusal_and_of_a_rewrite_is_there(run: Run, stream: Path, host: Path, tmp_path: Path) -> None:
    refused = run("plan", "--destination", host, "--json", stream).document
    assert refused["refusals"]
    report = tmp_path / "report.json"
    run("rewrite", "--destination", HOST_7_3, "--report", report, FROM_7_3, tmp_path / "out")

    for verb, document in (("plan", refused), ("rewrite", msgspec.json.decode(report.read_bytes()))):
        documented = part(verb) + part("plan") + "`version` `command`"
        assert not {key for key in keys(document) if f"`{key}`" not in documented}
