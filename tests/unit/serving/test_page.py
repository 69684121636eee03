"""The page in a real browser: an image, a question, an answer, and where the model looked."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tarfile
import time

import httpx
import pytest
from limits import patient
from serving_parts import Asker, png, processor_of, running, user

from dragonfly_lit.serving import page
from dragonfly_lit.serving.rows import SharedRows
from dragonfly_lit.spec.levels import COLOURS

WAIT = 30


def test_the_page_needs_no_other_file_and_may_ask_no_other_server(served):
    text = page.page().decode()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)[^"']+""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    answer = httpx.get(served.url)
    assert answer.content == page.page()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; img-src data:")
    assert "unsafe" not in policy


def test_a_level_has_the_colour_that_it_has_everywhere():
    text = page.page().decode()
    assert {level: re.search(rf"--{level}: (#\w+);", text)[1] for level in COLOURS} == COLOURS


@pytest.fixture(scope="module")
def driver(open_chromium):
    return open_chromium()


@pytest.fixture
def browser(driver, served, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(1))
    driver.get(served.url)
    until(driver, lambda: one(driver, "#name").text == "tiny")
    yield driver
    errors = [entry for entry in driver.get_log("browser") if "status of 400" not in entry["message"]]
    assert errors == []


def one(browser, selector: str):
    return browser.find_element("css selector", selector)


def every(browser, selector: str):
    return browser.find_elements("css selector", selector)


def until(browser, true) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, patient(WAIT), 0.05).until(lambda _: true())


def ask(browser, question: str) -> None:
    """By the keyboard alone."""
    box = one(browser, "#question")
    box.send_keys(question + "\n")
    until(browser, lambda: one(browser, "#send").is_enabled() and not box.get_property("value"))


def upload(browser, tmp_path) -> None:
    one(browser, "#file").send_keys(str(tmp_path / "picture.png"))
    until(browser, lambda: "picture.png" in one(browser, "#image-state").text)


def numbers(side, table: str) -> dict[str, float]:
    rows = every(side, f".{table} tr")
    return {one(row, "th").text: float(one(row, "td").text) for row in rows}


def test_an_image_is_asked_about_twice_and_its_crops_are_shown(browser, tiny, tmp_path):
    asker = Asker(tiny, processor_of(tiny))
    expected = asker.ask(user(png(1), "what is it?"), max_tokens=512)
    asker.engine.stop()
    upload(browser, tmp_path)
    ask(browser, "what is it?")
    assert one(browser, ".turn.assistant").get_property("textContent") == expected[0].text
    assert len(every(browser, "rect.level-low")) == 1
    assert len(every(browser, "rect.level-medium")) == tiny.layout.zoom.medium_crops
    high = every(browser, "rect.level-high")
    zoom = expected[-1].zoom[0]
    assert [float(box.get_attribute("data-score")) for box in high] == zoom["scores"]
    assert len({box.get_attribute("fill") for box in high}) > 2
    assert len(every(browser, "rect.kept")) == len(every(browser, "text.kept-mark")) == len(zoom["kept"])
    assert one(browser, "svg").get_attribute("aria-label").startswith(f"{len(zoom['kept'])} of {len(high)} high crops")
    tokens = numbers(browser, "tokens")
    assert tokens["low"] + tokens["medium"] + tokens["high"] == tiny.layout.num_tokens
    assert tokens["answer"] == expected[-1].num_answered
    assert set(numbers(browser, "times")) == {"decode and cut", "wait", "see and read", "answer"}
    ask(browser, "and why?")
    assert len(every(browser, ".turn.assistant")) == 2
    assert numbers(browser, "tokens")["known from before"] == tiny.layout.num_tokens
    one(browser, "[data-show='high']").click()
    assert not one(browser, "rect.kept").is_displayed()
    one(browser, "[data-show='high']").click()


def test_two_settings_are_seen_side_by_side(browser, tiny, tmp_path):
    upload(browser, tmp_path)
    one(browser, "#two").click()
    first, second = every(browser, ".side")
    one(second, "[data-zoom='top_k'] option[value='']").click()
    one(second, "[data-zoom='low']").click()
    ask(browser, "what is it?")
    assert numbers(first, "tokens")["low"] > 0
    assert numbers(second, "tokens")["low"] == 0
    assert numbers(second, "tokens")["high"] == 2 * numbers(first, "tokens")["high"]
    assert every(second, "rect.kept") == []
    assert "all kept" in one(second, ".legend").text
    assert "4 kept" in one(first, ".legend").text
    one(second, "[data-zoom='medium']").click()
    one(second, "[data-zoom='high']").click()
    ask(browser, "what is left?")
    assert "nothing would be seen" in one(second, ".error").text
    one(browser, "#two").click()
    assert len(every(browser, ".side")) == 1


SEND = """
const [data, kind] = arguments, bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], "given.png", { type: "image/png" }));
const event = kind === "paste"
  ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true })
  : new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
document.body.dispatchEvent(event);
"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped(browser, kind):
    browser.execute_script(SEND, base64.b64encode(png(2)).decode(), kind)
    until(browser, lambda: "given.png" in one(browser, "#image-state").text)
    until(browser, lambda: browser.execute_script("return document.querySelector('.picture img').naturalWidth") == 74)


def test_what_is_said_is_text_and_errors_are_told(browser):
    ask(browser, "<img src=x onerror=alert(1)>")
    assert one(browser, ".turn.user").get_property("textContent") == "<img src=x onerror=alert(1)>"
    ask(browser, "<|eot_id|>")
    assert "eot_id" in one(browser, ".error:not(#message)").text
    one(browser, "#clear").click()
    assert every(browser, ".turn") == []


@pytest.fixture
def slow(served, monkeypatch):
    """Answers that go on and on."""
    monkeypatch.setattr(served.engine.answering, "ends", set())
    real = SharedRows.step

    def step(self, words):
        time.sleep(0.02)
        return real(self, words)

    monkeypatch.setattr(SharedRows, "step", step)


def test_an_answer_can_be_stopped(browser, served, slow):
    one(browser, "#question").send_keys("long?\n")
    until(browser, lambda: one(browser, ".turn.assistant").text)
    one(browser, "#stop").click()
    until(browser, lambda: "(stopped)" in one(browser, ".turn.assistant").text)
    until(browser, lambda: served.engine.num_active == 0)


CHANGES = {
    "another image": lambda browser: browser.execute_script(SEND, base64.b64encode(png(2)).decode(), "drop"),
    "another zoom": lambda browser: one(browser, "[data-zoom='low']").click(),
    "a new conversation": lambda browser: one(browser, "#clear").click(),
}


@pytest.mark.parametrize("how", CHANGES)
def test_what_changes_during_an_answer_begins_anew(browser, served, tmp_path, slow, how):
    """The answer was to what is no longer on the page: the next question does not go on with it."""
    upload(browser, tmp_path)
    one(browser, "#question").send_keys("long?\n")
    until(browser, lambda: one(browser, ".turn.assistant").text)
    CHANGES[how](browser)
    until(browser, lambda: one(browser, "#send").is_enabled() and served.engine.num_active == 0)
    assert every(browser, ".turn") == []
    assert browser.execute_script("return sides[0].messages.length") == 0
    assert one(browser, ".error").text == ""


FOCUSED = """
const one = document.activeElement;
if (one === document.body) return null;
const style = getComputedStyle(one);
return [[...document.querySelectorAll("button, input, select")].indexOf(one), style.outlineStyle, style.outlineWidth];
"""
ENABLED = """
return [...document.querySelectorAll("button, input, select")]
  .map((one, place) => one.offsetParent && !one.disabled ? place : -1).filter((place) => place >= 0);
"""


TO_THE_TOP = "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"
AXE = """
const done = arguments[0];
axe.run().then((told) => done(told.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.html)])));
"""


def test_everything_is_done_by_the_keyboard_alone(browser, tmp_path):
    """Tab goes through all that can be used, in its order, and one sees where one is."""
    from selenium.webdriver import ActionChains, Keys

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    def tab_to(selector: str) -> None:
        for _ in range(60):
            press(Keys.TAB)
            if browser.switch_to.active_element == one(browser, selector):
                return
        raise AssertionError(f"Tab does not come to {selector}")

    upload(browser, tmp_path)  # a chooser of files is the system's own
    tab_to("#two")
    press(Keys.SPACE)
    assert len(every(browser, ".side")) == 2
    browser.execute_script("document.activeElement.blur(); window.getSelection().removeAllRanges(); scrollTo(0, 0)")
    browser.execute_script(TO_THE_TOP)
    seen = []
    for _ in range(60):
        press(Keys.TAB)
        found = browser.execute_script(FOCUSED)
        if found is None or (seen and found[0] == seen[0]):
            break
        assert found[1] != "none"
        assert float(found[2].removesuffix("px")) >= 2
        seen.append(found[0])
    assert seen == browser.execute_script(ENABLED)
    tab_to(".side:last-child [data-zoom='score']")
    press("m")  # a list goes to what begins so
    tab_to(".side:last-child [data-zoom='low']")
    press(Keys.SPACE)
    tab_to("#question")
    press("what is it?", Keys.ENTER)
    until(browser, lambda: one(browser, "#send").is_enabled() and len(every(browser, ".turn.assistant")) == 2)
    first, second = every(browser, ".side")
    assert numbers(second, "tokens")["low"] == 0 < numbers(first, "tokens")["low"]
    assert browser.switch_to.active_element == one(browser, "#question")
    one(browser, "#two").click()


def test_nothing_moves_by_itself(browser):
    """So whoever asks their system for less motion has none to miss."""
    text = page.page().decode()
    assert not re.search(r"transition|animation|@keyframes|scroll-behavior|requestAnimationFrame|<marquee|<video", text)
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ask(browser, "what?")
    assert browser.execute_script("return document.getAnimations().length") == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm, for axe-core, is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(browser, tmp_path, scheme):
    """Names, roles, contrasts and orders, by the rules of WCAG 2.2 AA that a program can check."""
    pack = subprocess.run(
        ["npm", "pack", "axe-core@4"], cwd=tmp_path, capture_output=True, text=True, timeout=patient(300)
    )
    if pack.returncode:
        pytest.skip("npm finds no registry with axe-core")
    with tarfile.open(next(tmp_path.glob("axe-core-*.tgz"))) as archive:
        axe = archive.extractfile("package/axe.min.js").read().decode()
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    upload(browser, tmp_path)
    one(browser, "#two").click()
    ask(browser, "what is it?")
    ask(browser, "<|eot_id|>")  # an error is there as well
    browser.execute_script(axe)
    browser.set_script_timeout(120)
    found = browser.execute_async_script(AXE)
    one(browser, "#two").click()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found == []


WIDER = "return document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"
UNNAMED = """
return [...document.querySelectorAll("button, input, select")].filter((one) => one.offsetParent
  && !(one.textContent.trim() || one.labels?.length || one.ariaLabel)).length
"""
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_and_everything_has_a_name(browser, tmp_path, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    upload(browser, tmp_path)
    one(browser, "#two").click()
    ask(browser, "what is it, in a long question without an end?" + "x" * 80)
    assert browser.execute_script(WIDER) is False
    assert browser.execute_script(UNNAMED) == 0
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_light_and_dark_follow_the_system(browser):
    seen = set()
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen.add(browser.execute_script(BACKGROUND))
    assert len(seen) == 2


def test_a_key_is_asked_for_where_one_is_needed(driver, tiny):
    key = "0123456789abcdef-key"
    with running(tiny, api_key=key, hosts=None) as server:
        driver.get(server.url)
        until(driver, lambda: one(driver, "#key-row").is_displayed())
        one(driver, "#key").send_keys(key + "\n")
        until(driver, lambda: one(driver, "#name").text == "tiny")
        assert not one(driver, "#key-row").is_displayed()
        ask(driver, "x")
        assert one(driver, ".turn.assistant")
    driver.get_log("browser")  # the first answer was 401
