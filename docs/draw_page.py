"""Draws `pictures/page.png`: the server's page with two settings side by side; random weights, so no words of it.

The file says which page it shows, and how wide a line of letters is in the browser that drew it: another font draws
another picture.

python docs/draw_page.py    # needs the extras `serve` and `study`, selenium, and Chromium
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving import page
from dragonfly_lit.serving.application import Server
from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.gate import Limits
from dragonfly_lit.serving.listening import Listener, listen

HERE = Path(__file__).resolve().parent
COLOURS, SIZE = 128, "1280,1100"
LETTERS = """
const line = document.createElement("span");
line.textContent = "The quick brown fox jumps over the lazy dog, 0123456789";
document.body.append(line);
const width = line.getBoundingClientRect().width;
line.remove();
return width.toFixed(2);
"""


def main(file: Path = HERE / "pictures/page.png") -> None:
    """Draw it."""
    model = tiny_model(3, zoom={"high_crops": 24, "top_k": 2})
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer())
    engine = Engine(model, processor)
    server = Server(engine, processor, name="tiny", limits=Limits(default_tokens=8))
    with listen("127.0.0.1", 0) as listener:
        web = Listener(server.application(), retire=engine.retire)
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            seen, letters = look(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        finally:
            web.should_exit = True
            thread.join()
    said = PngInfo()
    for name, value in (("page", digest()), ("letters", letters)):
        said.add_text(name, value)
    seen.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True, pnginfo=said)


def digest() -> str:
    """Of the page that is drawn."""
    return hashlib.sha256(page.page()).hexdigest()


def look(address: str) -> tuple[Image.Image, str]:
    """What a browser shows after a question, down to the pictures; and how wide its letters are."""
    from skimage.data import astronaut

    browser = open_browser()
    try:
        browser.get(address)
        wait(lambda: browser.find_element("id", "name").text == "tiny")
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "photo.png"
            Image.fromarray(astronaut()[:384]).save(image)
            browser.find_element("id", "file").send_keys(str(image))
            wait(lambda: "photo" in browser.find_element("id", "image-state").text)
        browser.find_element("id", "two").click()
        second = browser.find_elements("css selector", ".side")[1]
        second.find_element("css selector", "[data-zoom='top_k'] option[value='1']").click()
        second.find_element("css selector", "[data-zoom='score'] option[value='max']").click()
        browser.find_element("id", "question").send_keys("What is she wearing?\n")
        wait(lambda: len([one for one in browser.find_elements("css selector", ".tables") if one.is_displayed()]) == 2)
        legend = browser.find_element("css selector", ".legend").rect
        shot = Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        seen = shot.crop((0, 0, shot.width, min(shot.height, int(legend["y"] + legend["height"]) + 8)))
        return seen, browser.execute_script(LETTERS)
    finally:
        browser.quit()


def open_browser() -> Any:
    """A headless Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={SIZE}")
    driver = shutil.which("chromedriver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver) if driver else None)


def wait(true: Any) -> None:
    """Until it is so."""
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            raise RuntimeError("the page did not come so far.")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
