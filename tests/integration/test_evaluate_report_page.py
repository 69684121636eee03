import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from dragonfly_lit.evaluation import compare, compare_page, html
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.images import image_at
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.published import PublishedRow
from dragonfly_lit.evaluation.runner import Settings, score_predictions
from dragonfly_lit.io.parsers import ask_parser
from dragonfly_lit.processing.images import decode

NASTY = 'red</script><script>document.title = "broken"</script><!--'


@dataclass(frozen=True, kw_only=True)
class Shapes(Benchmark):
    name: ClassVar[str] = "shapes"
    published: ClassVar = (PublishedRow(metric="accuracy", model="Dragonfly v1", value=63.6, source="a post"),)

    def locate(self, data_root) -> Path:
        return Path(data_root)

    def read(self, folder):
        for i in range(8):
            Image.new("RGB", (640, 480), (i * 30, 90, 90)).save(folder / f"{i}.png")
            yield Question(
                id=f"s{i}",
                task=self.name,
                text=f"Which colour {i}?",
                images=(folder / f"{i}.png",),
                references=("red",),
                category=("colour", "shape")[i % 2],
            )

    def metric(self, questions, judged=None):
        return ExactMatch(questions)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Three right answers and five wrong ones, one of them an attack on the page."""
    folder = tmp_path_factory.mktemp("report")
    said = ["red", "red", "red", "blue", "blue", "", "green", NASTY]
    zoom = [{"medium": [2, 2], "high": [4, 2], "kept": [0, 3, 5, 6]}]
    rows = [{"id": f"s{i}", "output": text, "zoom": zoom} for i, text in enumerate(said)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    book = PromptBook(name="released", default=Template(text="{question}"), templates={})
    settings = Settings(prompts=book, data_root=folder, resamples=50)
    score_predictions(Shapes(), folder / "p.jsonl", folder / "out", settings=settings)
    return folder / "out/report.html"


def test_the_page_needs_no_other_file(report):
    text = report.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"']+""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("data:image/jpeg") == 8


def test_the_images_of_the_page_are_bounded(report, monkeypatch, tmp_path):
    monkeypatch.setattr(html, "MAX_IMAGE_BYTES", 4000)
    book = PromptBook(name="released", default=Template(text="{question}"), templates={})
    settings = Settings(prompts=book, data_root=tmp_path, resamples=5)
    score_predictions(Shapes(), report.parents[1] / "p.jsonl", tmp_path / "out", settings=settings)
    text = (tmp_path / "out/report.html").read_text()
    assert 0 < text.count("data:image/jpeg") < 8
    assert re.search(r'"num_left_out": [1-7]', text)


@pytest.fixture(scope="module")
def browser(open_chromium, report):
    page = open_chromium("1280,1400")
    page.get(report.as_uri())
    return page


def cards(browser, **wanted) -> list[str]:
    found = browser.find_elements("css selector", ".card")
    assert all(card.get_attribute(f"data-{name}") == value for card in found for name, value in wanted.items())
    return sorted(card.get_attribute("data-id") for card in found)


def choose(browser, element: str, value: str) -> None:
    browser.find_element("css selector", f"#{element} option[value='{value}']").click()


def test_the_page_shows_scores_and_filters_answers(browser):
    assert browser.get_log("browser") == []
    assert browser.title == "Dragonfly evaluation"
    scores = browser.find_element("id", "scores").text
    assert "shapes" in scores
    assert "37.50" in scores
    assert "Dragonfly v1" in browser.find_element("id", "breakdown").text
    everything = [f"s{i}" for i in range(8)]
    assert cards(browser) == everything
    browser.find_element("css selector", "[data-verdict='right']").click()
    assert cards(browser, verdict="right") == ["s0", "s1", "s2"]
    choose(browser, "by-category", "shape")
    assert cards(browser) == ["s1"]
    browser.find_element("css selector", "#by-verdict [data-verdict='wrong']").click()
    assert cards(browser, verdict="wrong") == ["s3", "s5", "s7"]
    choose(browser, "by-category", "")
    browser.find_element("id", "by-text").send_keys("green")
    assert cards(browser) == ["s6"]
    browser.find_element("id", "by-text").send_keys(" nowhere")
    assert "No answer fits" in browser.find_element("id", "cards").text
    for _ in " nowhere green":
        browser.find_element("id", "by-text").send_keys("\b")
    browser.find_element("css selector", "#by-verdict [data-verdict='']").click()
    choose(browser, "by-benchmark", "shapes")
    assert cards(browser, benchmark="shapes") == everything


def test_answers_are_text_and_never_markup(browser):
    card = browser.find_element("css selector", ".card[data-id='s7']")
    assert NASTY in card.text


def test_selected_crops_are_marked_and_can_be_hidden(browser):
    card = browser.find_element("css selector", ".card[data-id='s0']")
    cells = card.find_elements("css selector", ".grid i")
    assert [i for i, cell in enumerate(cells) if cell.get_attribute("class") == "kept"] == [0, 3, 5, 6]
    assert len(card.find_elements("css selector", ".strip i")) == 4
    browser.find_element("id", "show-zoom").click()
    assert not card.find_element("css selector", ".strip").is_displayed()
    browser.find_element("id", "show-zoom").click()


def test_light_and_dark_are_a_button_away(browser):
    paper = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(paper)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(paper) != before


@dataclass(frozen=True, kw_only=True)
class Many(Shapes):
    """Three questions an image, 2,400 in all, in categories of unequal difficulty."""

    def read(self, folder):
        for i in range(2400):
            if i % 3 == 0 and i < 60:
                Image.new("RGB", (64, 48), (i, 90, 90)).save(folder / f"{i}.png")
            image = folder / f"{i - i % 3 if i < 60 else 57}.png"
            kind = ("a very long name of a category that no phone has room for", "easy", "hard")[i % 3]
            yield Question(
                id=f"s{i}", task=self.name, text=f"Which {i}?", images=(image,), references=("red",), category=kind
            )


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    book = PromptBook(name="released", default=Template(text="{question}"), templates={})
    made = {
        "model": "runs/x/checkpoints/step-1",
        "step": "step-1",
        "command": "evaluate.py benchmark=shapes",
        "commit": "abc",
    }
    settings = Settings(prompts=book, data_root=folder, resamples=20, gallery=12, made=made)
    for name, right in (("a", {1}), ("b", {0, 1})):
        rows = [{"id": f"s{i}", "output": "red" if i % 3 in right else "it's blue"} for i in range(2400)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        score_predictions(Many(limit=2400), folder / f"{name}.jsonl", folder / name, settings=settings)
    compare.main([str(folder / "a"), str(folder / "b"), "--names", "a", "b", "--html", str(folder / "both.html")])
    return folder


def phone(browser, width: int) -> None:
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


CUT = """
const width = document.documentElement.clientWidth;
const panels = [...document.querySelectorAll(".panel")].filter((one) => one.scrollWidth > one.clientWidth + 1);
return [document.documentElement.scrollWidth > width + 1, panels.length];
"""


def test_the_head_says_what_was_run_and_a_limit_is_marked(browser, two_runs):
    browser.get((two_runs / "a/report.html").as_uri())
    head = browser.find_element("id", "facts").text
    for said in ("runs/x/checkpoints/step-1", "evaluate.py benchmark=shapes", "abc", "2,400, limited"):
        assert said in head
    assert "limited" in browser.find_element("id", "scores").text
    numbers = [one.text for one in browser.find_elements("css selector", ".plot text")]
    assert numbers == ["0", "25", "50", "75", "100"]
    (bars,) = browser.find_elements("xpath", "//h3[.='Mean mark by category']/../*[@class='bars']")
    shares = [float(one.text.split("n")[0]) for one in bars.find_elements("css selector", ".value")]
    assert len(shares) == 3
    assert shares == sorted(shares), "the worst first"


def test_thousands_of_answers_come_in_pages_one_card_an_image(browser, two_runs):
    browser.get((two_runs / "a/report.html").as_uri())
    first = browser.find_element("css selector", ".card")
    assert len(first.find_elements("css selector", ".answer")) == 3
    assert browser.find_element("id", "count").text == "2,400 of 2,400"
    browser.find_element("id", "by-text").send_keys("s2399")
    assert len(browser.find_elements("css selector", ".answer")) == 1
    button = browser.find_element("css selector", ".copy")
    command = button.get_attribute("data-command")
    assert command.startswith("python -m dragonfly_lit ask 'Which 2399?' --model runs/x/checkpoints/step-1 --image ")
    assert command.endswith("57.png --max-new-tokens 16")
    button.click()


ODD = (
    'it\'s = "odd"; $(echo no) `no` \\ !x',
    "--help",
    "- 5 = ?",
    "=x",
    "two\nlines\tand\u00a0more",
    "\u4e2d\u6587 *?[a] ~ #",
)


@dataclass(frozen=True, kw_only=True)
class Odd(Shapes):
    name = "odd"

    def read(self, folder):
        for number, text in enumerate(ODD):
            image = folder / f'it\'s {number} = $x #1:a "b".png'
            Image.new("RGB", (64, 48), (number, 90, 90)).save(image)
            yield Question(id=f"q{number}", task=self.name, text=text, images=(image,), references=("red",))


def test_a_question_is_a_command_whatever_it_says(browser, tmp_path):
    """A shell takes the command apart, and `ask` reads the question, the model and the image that were meant."""
    folder = tmp_path / "it's = a folder"
    folder.mkdir()
    book = PromptBook(name="released", default=Template(text="{question}"), templates={})
    settings = Settings(prompts=book, data_root=folder, resamples=20, made={"model": '-runs/it\'s = "x" y'})
    rows = [{"id": f"q{number}", "output": "red"} for number in range(len(ODD))]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_predictions(Odd(folder=folder), tmp_path / "p.jsonl", tmp_path / "out", settings=settings)
    browser.get((tmp_path / "out/report.html").as_uri())
    found = {}
    for card in browser.find_elements("css selector", ".answer"):
        command = card.find_element("css selector", ".copy").get_attribute("data-command")
        assert command.startswith("python -m dragonfly_lit ask ")
        script = "printf '%s\\0' " + command.removeprefix("python -m dragonfly_lit ask ")
        said = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
        args = ask_parser().parse_args(said.split("\0")[:-1])
        assert str(args.model) == '-runs/it\'s = "x" y'
        (image,) = args.image
        assert decode(image_at(image)).size == (64, 48)
        found[card.get_attribute("data-id")] = args.question, image.name
    assert found == {f"q{n}": (text, f'it\'s {n} = $x #1:a "b".png') for n, text in enumerate(ODD)}


def test_names_of_scores_break_behind_their_marks_alone(browser, two_runs):
    phone(browser, 1400)
    browser.get((two_runs / "a/report.html").as_uri())
    inside = "[...document.querySelectorAll('details.bench .inside > *')]"
    assert set(browser.execute_script(f"return {inside}.map((e) => getComputedStyle(e).overflowWrap)")) == {
        "break-word"
    }
    assert browser.execute_script("return document.querySelectorAll('details.bench td wbr').length") > 0


def test_two_runs_stand_side_by_side_on_the_same_questions(browser, two_runs):
    browser.get((two_runs / "both.html").as_uri())
    assert browser.get_log("browser") == []
    row = browser.find_element("css selector", "#scores-of-both tbody").text
    for said in ("33.33", "66.67", "+33.33", "800", "1,600"):
        assert said in row
    browser.find_element("css selector", "[data-outcome='win']").click()
    assert browser.find_element("id", "count").text == "800 of 2,400"
    card = browser.find_element("css selector", ".card")
    sides = card.find_elements("css selector", ".both > div")
    assert [("it's blue" in side.text, bool(side.find_elements("css selector", "img"))) for side in sides] == [
        (True, True),
        (False, True),
    ]
    browser.find_element("css selector", "#by-outcome [data-outcome='loss']").click()
    assert "No question fits" in browser.find_element("id", "cards").text


def test_counts_are_of_all_questions_where_the_page_holds_some(browser, two_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_page, "MAX_ANSWERS", 1000)
    compare.main([str(two_runs / name) for name in "ab"] + ["--html", str(tmp_path / "some.html")])
    browser.get((tmp_path / "some.html").as_uri())
    row = browser.find_element("css selector", "#scores-of-both tbody").text
    assert "800" in row
    assert "1,600" in row
    assert "1,400 questions are left out" in browser.find_element("id", "pairs-lead").text
    assert browser.find_element("id", "count").text == "1,000 of 1,000"


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut_on_a_wide_page_or_on_a_phone(browser, two_runs, width):
    for page in ("a/report.html", "both.html"):
        phone(browser, width)
        browser.get((two_runs / page).as_uri())
        assert browser.execute_script(CUT) == [False, 0], page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_more_or_less_than_two_runs_have_no_page(two_runs):
    with pytest.raises(ValueError, match="--html shows two runs side by side, and 1 are given"):
        compare.main([str(two_runs / "a"), "--html", str(two_runs / "x.html")])
