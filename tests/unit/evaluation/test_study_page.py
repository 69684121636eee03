"""The study's page in a real browser: it opens from disk, shows its curves and gallery, and filters by size."""

from io import BytesIO

import pytest
from PIL import Image

from dragonfly_lit.evaluation.study.cells import Cell, Study
from dragonfly_lit.evaluation.study.gallery import Example, Look
from dragonfly_lit.evaluation.study.gathered import Gathered, Section
from dragonfly_lit.evaluation.study.page import page
from dragonfly_lit.evaluation.study.plots import Drawn

NASTY = "red</dd><script>document.title = 'broken'</script>"


def result(score):
    groups = {"split": {"02%": {"num_questions": 5, "score": score}}, "category": {}}
    entry = {"headline": "accuracy", "scores": {"accuracy": score}, "groups": groups, "answers_per_s": 1.0}
    return {"benchmarks": {"probes": entry}, "image_tokens": 18, "image_gflops": 0.5}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoom_ablation")
    scores = {"a": 0.1, "b": 0.2}
    cells = [Cell(name=f"cell={n}", title=n, parts=("levels",), results={"0": result(s)}) for n, s in scores.items()]
    study = Study(folder=folder, cells=(*cells, Cell(name="cell=c", title="c", parts=("levels",))), benchmark="probes")
    picture = BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 99)).save(picture, "JPEG")
    examples = [
        Example(
            id=f"q{i}",
            size=("02%", "25%")[i % 2],
            question=f"what {i}?",
            expected="red",
            looks=tuple(
                Look(cell=name, output=output, right=right, found=right, picture=picture.getvalue())
                for name, output, right in (("a", NASTY, False), ("b", "red", True))
            ),
            answers=(("c", "green", False),),
        )
        for i in range(5)
    ]
    curve = folder / "accuracy_size_levels.svg"
    box = "<rect width='90' height='60'/>"
    curve.write_text(f"<svg xmlns='http://www.w3.org/2000/svg' width='90' height='60'>{box}</svg>")
    path = folder / "study.html"
    section = Section(
        name="levels",
        tables=[(("cell", "jobs"), [("a", "1 of 1 seeds"), ("c", "not run")])],
        sentences=["a is a."],
        figures=[Drawn(svg=curve, seen="A box.", cells=cells)],
    )
    behind = {curve.name: ["python train.py experiment/cell=a at commit 0123abc"]}
    gathered = Gathered(title="t", lead="l", sections=[section], command="python -m study", commits=behind)
    path.write_text(page(study, gathered, examples, note="Some."))
    return path


@pytest.fixture(scope="module")
def browser(open_chromium, written):
    opened = open_chromium()
    opened.get(written.as_uri())
    return opened


def visible(browser):
    return [card for card in browser.find_elements("css selector", ".card") if card.is_displayed()]


def test_the_page_opens_with_curves_and_gallery_and_without_an_error(browser, written):
    assert browser.get_log("browser") == []
    assert browser.title == f"Study: {written.parent.name}"
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 1 + 5 * 2
    assert all(widths)
    assert len(visible(browser)) == 5


def test_a_cell_that_did_not_run_says_so(browser):
    rows = [row.text for row in browser.find_elements("css selector", "tr.missing")]
    assert len(rows) == 1
    assert rows[0].startswith("c not run")


def test_a_figure_says_the_command_and_the_commit_behind_it(browser):
    figure = browser.find_element("css selector", ".curves figure")
    figure.find_element("tag name", "summary").click()
    assert "Drawn by\npython -m study" in figure.text
    assert "python train.py experiment/cell=a at commit 0123abc" in figure.text


def test_the_cells_lie_side_by_side_on_each_image_with_what_they_found_and_said(browser):
    looks = visible(browser)[0].find_elements("css selector", ".looks figure")
    assert [look.text.split("\n")[:2] for look in looks] == [["a", "not kept"], ["b", "kept"]]
    assert looks[1].location["y"] == looks[0].location["y"]
    assert [look.find_element("tag name", "span").get_attribute("class") for look in looks] == ["wrong", "right"]


def test_the_gallery_filters_by_size_and_words_of_a_model_are_only_words(browser):
    browser.find_element("css selector", "#by-size option[value='25%']").click()
    assert len(visible(browser)) == 2
    assert browser.find_element("id", "count").text == "2 shown"
    assert NASTY in visible(browser)[0].text
