"""How recipes are cut out of the page, and that each is run by some test."""

from pathlib import Path

import pytest

from tests.recipes import PAGE, RecipeError, commands, recipe, recipes

BLOCK = "text\n\n<!-- recipe: one two -->\n```toml\nlisten = 1\n\nmore\n```\ntext\n"


def test_block_after_marker() -> None:
    assert recipes(BLOCK) == {"one two": "listen = 1\n\nmore\n"}


def test_blocks_without_marker_are_no_recipes() -> None:
    assert recipes("```\nvirsh list\n```\n") == {}


@pytest.mark.parametrize("page", ["<!-- recipe: x -->\n", "<!-- recipe: x -->\ntext\n```\na\n```\n"])
def test_marker_without_block(page: str) -> None:
    with pytest.raises(RecipeError, match="recipe 'x': expected a fenced block right after its marker"):
        recipes(page)


def test_name_twice() -> None:
    with pytest.raises(RecipeError, match="'one two' is on the page twice"):
        recipes(BLOCK + BLOCK)


def test_replacements() -> None:
    assert "tcp://elsewhere:49152 GUEST" in recipe("virsh precopy", {"proxy.example": "elsewhere"})


def test_nothing_to_replace() -> None:
    with pytest.raises(RecipeError, match="recipe 'virsh precopy' has no '/nowhere' to replace"):
        recipe("virsh precopy", {"/nowhere": "x"})


def test_no_such_recipe() -> None:
    with pytest.raises(RecipeError, match=r"operations.md has no recipe 'cake'; it has route, "):
        recipe("cake", {})


def test_commands_lose_comments() -> None:
    assert commands("virsh list   # all\n\n# a comment\nvirsh x &\n") == ["virsh list", "virsh x &"]


def test_every_recipe_of_the_page_is_run() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*/test_*.py"))
    assert [name for name in recipes(PAGE.read_text()) if f'"{name}"' not in tests] == []
