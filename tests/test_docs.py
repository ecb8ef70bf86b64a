"""What the pages link to; Sphinx checks the links between its own pages only."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / "README.md").read_text())


def anchors(text):
    """Anchors of headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("link", LINKS)
def test_links_of_the_readme_can_be_read_on_github(link):
    path, _, anchor = link.partition("#")
    assert (ROOT / path).is_file()
    if path.endswith(".md"):
        text = (ROOT / path).read_text()
        assert not re.search(r"^(:::+|```)\{", text, flags=re.MULTILINE)
        assert not anchor or anchor in anchors(text)
