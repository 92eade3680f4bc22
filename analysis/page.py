"""One page a sweep that needs nothing else: NAME.html with figures, tables, verdicts, config and provenance inside.

It opens from disk, asks for nothing over a network and holds no scripts: its own policy forbids both.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import OmegaConf

from analysis.analyse import Analysis
from analysis.answer import Answer
from analysis.figures.finding import state_finding, state_verdicts
from analysis.page_tables import (
    PageTable,
    list_provenance,
    tables_of_analysis,
    tables_of_answer,
    tabulate_config,
    tabulate_verdicts,
)
from analysis.write import publish
from harness.config import SWEEPS_DIR

MOST_VECTOR = 400_000  # bytes of an svg; a larger one is shown as its png
TEMPLATES = Path(__file__).parent / "pages"
VERDICTS = ("confirmed", "refuted", "inconclusive")


@dataclass(frozen=True)
class Picture:
    name: str
    address: str  # a data: URI
    text: str  # for who does not see it


@dataclass(frozen=True)
class Page:
    """What NAME.html shows.

    Attributes:
        yaml: sweeps/NAME.yaml as it stands, or nothing.
        planned: what it says under sweep: prediction, source.
    """

    name: str
    question: str
    finding: tuple[str, ...]
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    tables: tuple[PageTable, ...]
    verdicts: PageTable
    config: tuple[PageTable, ...]
    yaml: str
    planned: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """How many verdicts are which."""
        return tuple((word, sum(word in row for row in self.verdicts.rows)) for word in VERDICTS)


def make_page(said: Analysis | Answer, frame: pd.DataFrame, paths: Sequence[Path], sentence: str) -> Page:
    """The page of a sweep.

    Args:
        said: what its runs say.
        frame: the table of runs.
        paths: of its figures' files, the main one first; png and svg of each.
        sentence: which table was taken.
    """
    if isinstance(said, Answer):
        verdicts, label = list(said.verdicts), said.label
        finding, tables = state_verdicts(verdicts, label), tables_of_answer(said)
        judged = tabulate_verdicts(verdicts, label)
        runs = frame
    else:
        verdicts = [verdict for answer in said.groups for verdict in answer.verdicts]
        finding, tables = state_finding(said), tables_of_analysis(said)
        judged = tabulate_verdicts(verdicts)
        runs = said.runs.frame
    notes = () if isinstance(said, Answer) else tuple(said.runs.notes)
    path = SWEEPS_DIR / f"{said.sweep}.yaml"
    planned = OmegaConf.select(OmegaConf.load(path), "sweep") if path.exists() else {}
    return Page(
        said.sweep, said.question, tuple(finding), notes, tuple(embed(paths, said.question)), tuple(tables),
        judged, tuple(tabulate_config(runs)), path.read_text(encoding="utf-8") if path.exists() else "",
        tuple((key, str(planned[key])) for key in ("prediction", "source") if planned.get(key)),
        tuple(list_provenance(frame, sentence)),
    )  # fmt: skip


def embed(paths: Sequence[Path], question: str) -> Iterator[Picture]:
    """The figures, each once: as svg where that is not large, else as png."""
    for path in paths:
        if path.suffix != ".png":
            continue
        vector = path.with_suffix(".svg")
        if vector.exists() and vector.stat().st_size <= MOST_VECTOR:
            path, kind = vector, "svg+xml"
        else:
            kind = "png"
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        text = f"Figure {path.stem}: {question} Its numbers stand in the tables below."
        yield Picture(path.stem, f"data:image/{kind};base64,{data}", text)


def name_page(name: str) -> str:
    """The stem of a sweep's page; index.html, also on file systems that take Index for index, leads to all."""
    return f"{name}-sweep" if name.lower() == "index" else name


def write_page(page: Page, out_dir: Path) -> Path:
    """Write NAME.html, the same bytes for the same runs."""
    return render("sweep.html", out_dir / f"{name_page(page.name)}.html", page=page, title=page.name)


def write_index(pages: Sequence[Page], out_dir: Path) -> Path:
    """Write index.html, which leads to the pages beside it."""
    return render("index.html", out_dir / "index.html", pages=pages, title="Sweeps")


def render(template: str, path: Path, **values: object) -> Path:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["link"] = link
    environment.filters["page"] = name_page
    text = environment.get_template(template).render(**values)
    publish(path, lambda at: at.write_text(text, encoding="utf-8"))
    return path


CITED = re.compile(r"arXiv (?P<arxiv>\d{4}\.\d{4,5})|kexue\.fm/archives/(?P<kexue>\d+)")


def link(text: str) -> Markup:
    """A text, escaped, whose papers and articles are links."""
    parts, end = [], 0
    for found in CITED.finditer(text):
        arxiv, kexue = found["arxiv"], found["kexue"]
        address = f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://kexue.fm/archives/{kexue}"
        parts += [Markup.escape(text[end : found.start()]), Markup('<a href="{}">{}</a>').format(address, found[0])]
        end = found.end()
    return Markup("").join([*parts, Markup.escape(text[end:])])
