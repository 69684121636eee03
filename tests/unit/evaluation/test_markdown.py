"""Words of a data set stay words: in results.md, in report.html and on the terminal."""

import json
import re

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from test_tasks_layouts import picture, put

from dragonfly_lit.evaluation.benchmarks.manifest import manifest
from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.report import table
from dragonfly_lit.evaluation.runner import score_predictions
from dragonfly_lit.evaluation.settings import Settings

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b | c",
    "two\nlines\r\n\n# of text",
    "`code` and ``more``",
    "[a link](https://evil.example)",
    "![an image](https://evil.example/a.png)",
    "https://evil.example/x and www.evil.example",
    "**bold** _italic_ __strong__ ~~gone~~",
    "<!-- hidden",
    "&lt;b&gt; &amp;",
    "back\\slash \\| \\`",
    "[ref]: https://evil.example",
    "<https://evil.example>",
    "me@evil.example",
    "\x1b[31mred[/red]",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_category_is_shown_as_its_own_text(text):
    """An independent reader of Markdown finds the text and nothing else."""
    page = READER.render(f"| score | value |\n| --- | --- |\n| {plain(text)} | 1 |\n")
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert len(cells) == 2
    assert "<" not in cells[0], page
    shown = cells[0]
    for mark, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(mark, letter)
    assert shown == " ".join(text.split()).replace("\x1b", "\\x1b")


def test_a_bare_address_does_not_become_a_link():
    """GitHub makes one of http://, https:// and www. at the start of a word."""
    assert not re.search(r"https?://|www\.", plain("https://evil.example http://evil.example WWW.evil.example").lower())


def test_the_names_of_scores_stay_readable():
    for name in ("num_unparsed", "accuracy_lmms_eval/natural science", "f1/random", "10.5 to 11.2"):
        assert plain(name) == name


def test_hostile_words_end_neither_the_table_nor_the_page(tmp_path):
    put(tmp_path / "a.png", picture())
    rows = [
        {"id": str(i), "question": text, "answer": text, "category": text, "split": f"s{i % 2}", "image": "a.png"}
        for i, text in enumerate(HOSTILE)
    ]
    put(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)))
    put(tmp_path / "p.jsonl", "\n".join(json.dumps({"id": str(i), "output": text}) for i, text in enumerate(HOSTILE)))
    book = PromptBook(name="released", default=Template(text="{question}"))
    settings = Settings(prompts=book, data_root=tmp_path, resamples=10)
    task = manifest("[red]", tmp_path / "q.jsonl", "exact_match")
    results = score_predictions(task, tmp_path / "p.jsonl", tmp_path / "out", settings=settings)
    written = (tmp_path / "out/results.md").read_text()
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(written)
    assert set(re.findall(r"<(\w+)", page)) <= {
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
    }
    html = (tmp_path / "out/report.html").read_text()
    assert "<img src=x" not in html
    assert "<script>alert" not in html
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(results))
    assert "[red]" in shown.get()
