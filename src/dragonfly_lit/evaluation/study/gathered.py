"""Everything that a study says, computed once for its Markdown and for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.study.cells import Study
from dragonfly_lit.evaluation.study.differences import comparisons
from dragonfly_lit.evaluation.study.frontier import on_fronts
from dragonfly_lit.evaluation.study.learning import learning_seen
from dragonfly_lit.evaluation.study.origin import origins
from dragonfly_lit.evaluation.study.overview import (
    COMPARED,
    FRONTS,
    compared_rows,
    compared_seen,
    front_rows,
    power_seen,
)
from dragonfly_lit.evaluation.study.plots import Drawn, draw_curves
from dragonfly_lit.evaluation.study.plots_cost import draw_costs
from dragonfly_lit.evaluation.study.plots_laws import draw_learning, draw_scaling
from dragonfly_lit.evaluation.study.questions import chance
from dragonfly_lit.evaluation.study.scaling import FEWEST, points_of, scaling_seen
from dragonfly_lit.evaluation.study.tables import breakdown, columns, explanation, findings, row, table

Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the document.

    Attributes:
        name: its heading.
        tables: heads and rows, the first one above the sentences and the others below the figures.
        sentences: what is to be said.
        figures: beneath the sentences.
    """

    name: str
    tables: Sequence[tuple[Sequence[str], Rows]] = ()
    sentences: Sequence[str] = ()
    figures: Sequence[Drawn] = ()


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The document.

    Attributes:
        title: of the study.
        lead: how to read its numbers.
        sections: in order.
        command: that made this document.
        commits: for each figure's file the commands and commits of the jobs behind it.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    command: str
    commits: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def figures(self) -> list[Drawn]:
        """All figures in order."""
        return [figure for section in self.sections for figure in section.figures]


def gather(study: Study, out: Path, questions: Sequence[Question], *, small_at_most: float, command: str) -> Gathered:
    """The document of a study; its figures are written.

    Args:
        study: with at least one finished cell.
        out: folder of the figures.
        questions: that it was scored on; none where the data is gone.
        small_at_most: up to which share of the side a detail counts as small.
        command: that makes the document.
    """
    by_chance = chance(questions)
    curves, learning = draw_curves(study, out, chance=by_chance), draw_learning(study, out)
    costs = draw_costs(study, out, small_at_most=small_at_most)
    fronts = on_fronts(study, small_at_most)
    sections = [_cost(study, costs, small_at_most), _differences(study, small_at_most)]
    for part, cells in study.parts.items():
        figures = [*curves.get(part, ()), *([learning[part]] if part in learning else [])]
        said = findings(study, cells, small_at_most)
        said += [seen for cell in cells if (seen := learning_seen(cell)) is not None]
        rows = [row(study, cell, small_at_most, front=cell.name in fronts) for cell in cells]
        heads = ("cell", *(f"size {size.lstrip('0')}" for size in study.sizes), *study.kinds)
        by_size = (heads, [breakdown(study, cell) for cell in cells if cell.results])
        sections.append(
            Section(name=part, tables=[(columns(small_at_most), rows), by_size], sentences=said, figures=figures)
        )
    small = study.small(small_at_most)
    sections += _scaling(study, out, small_at_most, chance([q for q in questions if q.split in small]) or 0.0)
    found = Gathered(
        title=f"Study of {study.folder.name}", lead=explanation(study, by_chance), sections=sections, command=command
    )
    commits = {figure.svg.name: origins(figure.cells, study.benchmark) for figure in found.figures}
    return Gathered(**{**vars(found), "commits": commits})


def _cost(study: Study, figures: Sequence[Drawn], small_at_most: float) -> Section:
    return Section(name="accuracy against cost", tables=[(FRONTS, front_rows(study, small_at_most))], figures=figures)


def _differences(study: Study, small_at_most: float) -> Section:
    found = comparisons(study, small_at_most)
    said = [compared_seen(found), *power_seen(study, small_at_most, len(found))]
    tables = [(COMPARED, compared_rows(found))] if found else []
    return Section(name="differences, and the seeds they need", tables=tables, sentences=said)


def _scaling(study: Study, out: Path, small_at_most: float, floor: float) -> list[Section]:
    points = points_of(study, small_at_most)
    if len({point.pixels for point in points}) < FEWEST:
        return []
    titles = {point.title for point in points}
    try:
        said = scaling_seen(points, chance=floor)
        figure = draw_scaling(points, [cell for cell in study.cells if cell.title in titles], out, chance=floor)
    except ValueError as error:  # accuracies that no law is near are a finding, and the rest of the study stands
        return [Section(name="scaling", sentences=[str(error)])]
    return [Section(name="scaling", sentences=said, figures=[figure] if figure else [])]


def markdown(gathered: Gathered) -> str:
    """The document as Markdown; figures are named with the commands and commits behind them."""
    lines = [f"# {gathered.title}", "", gathered.lead, ""]
    for section in gathered.sections:
        lines += [f"## {section.name}", ""]
        for heads, rows in section.tables[:1]:
            lines += [*table(heads, rows), ""]
        lines += [f"- {sentence}" for sentence in section.sentences]
        lines += [""] * bool(section.sentences)
        for heads, rows in section.tables[1:]:
            lines += [*table(heads, rows), ""]
    lines += ["## figures", "", f"Drawn by `{gathered.command}` from the jobs of:", ""]
    shared: dict[tuple[str, ...], list[str]] = {}
    for file, made in gathered.commits.items():
        shared.setdefault(tuple(made), []).append(file)
    for made, names in shared.items():
        lines += [f"- {', '.join(names)}: {'; '.join(map(plain, made))}"]
    return "\n".join([*lines, ""])
