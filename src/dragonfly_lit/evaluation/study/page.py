"""The page `study.html`: one file without any other, with tables, curves, and pictures of the selected crops."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from dragonfly_lit.evaluation.html import read_asset
from dragonfly_lit.evaluation.study.cells import Study
from dragonfly_lit.evaluation.study.gallery import Example
from dragonfly_lit.evaluation.study.plots import TOKENS, sizes_seen, tokens_seen
from dragonfly_lit.evaluation.study.tables import breakdown, columns, explanation, findings, row


def page(
    study: Study,
    curves: Mapping[str, Sequence[Path]],
    examples: Sequence[Example],
    *,
    small_at_most: float,
    note: str,
    chance: float | None = None,
) -> str:
    """The whole page.

    Args:
        study: what was measured.
        curves: the files of each part; SVG files are put into the page.
        examples: of the gallery.
        small_at_most: up to which share of the side a detail counts as small.
        note: about the gallery.
        chance: accuracy of the best constant answers, where it is known.
    """
    sizes = list(dict.fromkeys(example.size for example in examples))
    missing = [cell for cell in study.cells if not cell.results]
    return Template(read_asset("study/study_page.html")).substitute(
        style=read_asset("page.css"),
        title=escape(f"Study: {study.folder.name}"),
        lead=escape(explanation(study, chance)),
        parts="\n".join(_part(study, part, curves.get(part, ()), small_at_most) for part in study.parts),
        gallery_lead=escape(note),
        filter_hidden="" if examples else "hidden",
        sizes="".join(
            f'<option value="{escape(size)}">{escape(size.lstrip("0"))} of the side</option>' for size in sizes
        ),
        cards="".join(map(_card, examples)),
        footer=escape(
            f"{len(study.cells)} cells, of which {len(missing)} did not run or finish"
            + (f": {', '.join(f'{cell.title} ({cell.state})' for cell in missing)}." if missing else ".")
        ),
    )


def _part(study: Study, part: str, curves: Sequence[Path], small_at_most: float) -> str:
    cells = study.parts[part]
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(study, cells, small_at_most))
    pictures = "".join(_picture(path, study, part) for path in curves if path.suffix == ".svg")
    heads = ("cell", *(f"size {size.lstrip('0')}" for size in study.sizes), *study.kinds)
    rows = [row(study, cell, small_at_most) for cell in cells]
    broken_down = [breakdown(study, cell) for cell in cells if cell.results]
    return (
        f'<section id="{escape(part)}"><h2>{escape(part.capitalize())}</h2>'
        f'<div class="panel">{_table(columns(small_at_most), rows)}</div><ul class="findings">{sentences}</ul>'
        f'<div class="curves">{pictures}</div>'
        f'<div class="panel">{_table(heads, broken_down)}</div></section>'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr{_missing(cells)}>" + "".join(f"<td>{escape(text)}</td>" for text in cells) + "</tr>" for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _missing(cells: Sequence[str]) -> str:
    return ' class="missing"' if len(cells) > 1 and cells[1] in ("not run", "not finished") else ""


def _picture(svg: Path, study: Study, part: str) -> str:
    encoded = base64.b64encode(svg.read_bytes()).decode()
    seen = (tokens_seen if svg.stem.startswith(TOKENS) else sizes_seen)(study, part)
    return f'<img alt="{escape(seen)}" src="data:image/svg+xml;base64,{encoded}">'


def _card(example: Example) -> str:
    answers = "".join(
        f"<dt>{escape(title)}</dt>"
        f'<dd><span class="{"right" if right else "wrong"}">{escape(answer or "(nothing)")}</span></dd>'
        for title, answer, right in example.answers
    )
    encoded = base64.b64encode(example.picture).decode()
    size = escape(example.size.lstrip("0"))
    seen = f"The crops that {example.cell} selected for: {example.question}"
    tags = f"{escape(example.id)} · detail of {size} of the side · crops of {escape(example.cell)}"
    return (
        f'<article class="card" data-size="{escape(example.size)}"><img alt="{escape(seen)}" '
        f'loading="lazy" src="data:image/jpeg;base64,{encoded}"><div class="body"><div class="tags">{tags}</div>'
        f"<p>{escape(example.question)} <span>{escape(example.expected)}</span></p><dl>{answers}</dl></div></article>"
    )
