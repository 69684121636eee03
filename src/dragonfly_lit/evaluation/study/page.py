"""The page `study.html`: one file without any other, with tables, curves, and pictures of the selected crops."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from string import Template

from dragonfly_lit.evaluation.html import read_asset
from dragonfly_lit.evaluation.study.cells import Study
from dragonfly_lit.evaluation.study.gallery import Example, Look
from dragonfly_lit.evaluation.study.gathered import Gathered, Section
from dragonfly_lit.evaluation.study.plots import Drawn

LONG = 48
"""Letters of a cell that is set in lines."""


def page(study: Study, gathered: Gathered, examples: Sequence[Example], *, note: str) -> str:
    """The whole page.

    Args:
        study: what was measured.
        gathered: the document; its SVG files are put into the page.
        examples: of the gallery.
        note: about the gallery.
    """
    sizes = list(dict.fromkeys(example.size for example in examples))
    missing = [cell for cell in study.cells if not cell.results]
    return Template(read_asset("study/study_page.html")).substitute(
        style=read_asset("page.css"),
        title=escape(f"Study: {study.folder.name}"),
        lead=escape(gathered.lead),
        contents="".join(
            f'<a href="#{escape(section.name)}">{escape(section.name)}</a>' for section in gathered.sections
        ),
        parts="\n".join(_part(section, gathered) for section in gathered.sections),
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


def _part(section: Section, gathered: Gathered) -> str:
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.sentences)
    pictures = "".join(_picture(figure, gathered) for figure in section.figures)
    first, *rest = [f'<div class="panel">{_table(heads, rows)}</div>' for heads, rows in section.tables] or [""]
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.name[:1].upper() + section.name[1:])}</h2>{first}'
        f'<ul class="findings">{sentences}</ul><div class="curves">{pictures}</div>{"".join(rest)}</section>'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr{_missing(cells)}>"
        + f"<td>{escape(cells[0])}</td>"
        + "".join(f"<td{_long(text)}>{escape(text)}</td>" for text in cells[1:])
        + "</tr>"
        for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _long(text: str) -> str:
    """Words that take several lines; numbers do not."""
    return ' class="words"' if len(text) > LONG else ""


def _missing(cells: Sequence[str]) -> str:
    return ' class="missing"' if len(cells) > 1 and cells[1] in ("not run", "not finished") else ""


def _picture(figure: Drawn, gathered: Gathered) -> str:
    encoded = base64.b64encode(figure.svg.read_bytes()).decode()
    behind = "".join(f"<code>{escape(line)}</code>" for line in gathered.commits[figure.svg.name])
    return (
        f'<figure{" class=wide" if figure.wide else ""}><img alt="{escape(figure.seen)}" '
        f'src="data:image/svg+xml;base64,{encoded}"><figcaption><details><summary>Command and commit</summary>'
        f"<p>Drawn by <code>{escape(gathered.command)}</code> from the jobs of {behind}</p></details></figcaption>"
        "</figure>"
    )


def _card(example: Example) -> str:
    answers = "".join(f"<dt>{escape(title)}</dt>{_answer(text, right)}" for title, text, right in example.answers)
    others = f"<details><summary>Cells that select nothing</summary><dl>{answers}</dl></details>" if answers else ""
    tags = f"{escape(example.id)} · detail of {escape(example.size.lstrip('0'))} of the side"
    return (
        f'<article class="card" data-size="{escape(example.size)}"><div class="body"><div class="tags">{tags}</div>'
        f"<p>{escape(example.question)} <span>{escape(example.expected)}</span></p>"
        f'<div class="looks">{"".join(_look(look, example) for look in example.looks)}</div>{others}</div></article>'
    )


def _look(look: Look, example: Example) -> str:
    encoded = base64.b64encode(look.picture).decode()
    seen = (
        f"The crops that {look.cell} selected for: {example.question} The detail is {'' if look.found else 'not '}kept."
    )
    return (
        f'<figure><img alt="{escape(seen)}" loading="lazy" src="data:image/jpeg;base64,{encoded}"><figcaption><dl>'
        f"<dt>{escape(look.cell)}</dt><dd>{'kept' if look.found else 'not kept'}</dd><dt>answer</dt>"
        f"{_answer(look.output, look.right)}</dl></figcaption></figure>"
    )


def _answer(text: str, right: bool) -> str:
    return f'<dd><span class="{"right" if right else "wrong"}">{escape(text or "(nothing)")}</span></dd>'
