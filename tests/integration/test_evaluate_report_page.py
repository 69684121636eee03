import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from dragonfly_lit.evaluation import html
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.published import PublishedRow
from dragonfly_lit.evaluation.runner import Settings, score_predictions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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
def browser(report):
    if CHROMIUM is None:
        # A browser is not a Python package; .ci/run installs one.
        pytest.skip("there is no Chromium on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,1400",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = shutil.which("chromedriver")
    service = webdriver.ChromeService(driver) if driver else None
    page = webdriver.Chrome(options=options, service=service)
    page.get(report.as_uri())
    yield page
    page.quit()


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
