"""Recipes of docs/operations.md, cut out of the page so that tests run what people read.

A recipe is a fenced block right after a line ``<!-- recipe: NAME -->``. What a test has to replace in one (hosts and
files, which differ on every machine) it names, and a replacement for something that is not there is an error: page and
test cannot drift apart.
"""

import re
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "operations.md"

_MARKED = re.compile(r"^<!-- recipe: (?P<name>.+?) -->\n(?P<rest>(?:.*\n){0,1})", re.MULTILINE)
_BLOCK = re.compile(r"```[a-z]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class RecipeError(ValueError):
    """A page's recipes cannot be read, or a recipe is not what a test takes it for."""


def recipes(page: str) -> dict[str, str]:
    """Return the text of each recipe on *page* by its name.

    Raises RecipeError for a marker without a block right after it, and for a name given twice.
    """
    found: dict[str, str] = {}
    for marked in _MARKED.finditer(page):
        name = marked["name"]
        block = _BLOCK.match(page, marked.start("rest"))
        if block is None:
            raise RecipeError(
                f"recipe {name!r}: expected a fenced block right after its marker, found {marked['rest']!r}"
            )
        if name in found:
            raise RecipeError(f"recipe {name!r} is on the page twice")
        found[name] = block["text"]
    return found


def recipe(name: str, replacements: Mapping[str, str]) -> str:
    """Return the recipe *name* of docs/operations.md with each key of *replacements* replaced.

    Raises RecipeError if the page has no such recipe, or the recipe lacks a key.
    """
    page = recipes(PAGE.read_text())
    if name not in page:
        raise RecipeError(f"{PAGE.name} has no recipe {name!r}; it has {', '.join(page)}")
    text = page[name]
    for old, new in replacements.items():
        if old not in text:
            raise RecipeError(f"recipe {name!r} has no {old!r} to replace")
        text = text.replace(old, new)
    return text


def commands(text: str) -> list[str]:
    """Return the command lines of a recipe, without comments and empty lines."""
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
