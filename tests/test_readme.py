"""Oracle: the files themselves. README names every sweep in one sentence, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headlines: lower case, no punctuation, a dash for every blank."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def rows() -> dict[str, str]:
    """Sweep -> the answer in README's table."""
    section = (ROOT / "README.md").read_text().split("## What each sweep answers", 1)[1].split("\n\n")[1]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines()[2:]]
    return {re.findall("`(.+)`", row[0])[0]: row[2] for row in cells}


def test_every_sweep_has_an_answer_of_one_sentence() -> None:
    assert set(rows()) == {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}
    for name, answer in rows().items():
        assert len(answer) <= 200, f"{name}: what goes further stands in docs/answers.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target
