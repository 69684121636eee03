"""One thread a process, shapes and types checked as code runs, and what was not tested is said at the end."""

import os
import re
import shutil
from collections import Counter

import jaxtyping
import pytest

# Several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

CHECKED = (
    *("models", "processing", "spec.outline", "spec.records", "training.objectives"),
    *("evaluation.generate", "evaluation.likelihood", "evaluation.metrics.bertscore"),
    *("serving.reading", "serving.rows", "serving.sampling"),
)
"""Where annotations hold shapes, which pyright cannot see. `tests/integration/test_training_optimizers.py` took 51 s of
CPU without checks, 60 with these, and 72 with all of spec, models, processing, training and serving."""
# An int will do for a float (PEP 484).
jaxtyping.install_import_hook(
    [f"dragonfly_lit.{name}" for name in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def unchecked(monkeypatch):
    """For tests of what is said of a value of another type than the annotation's, and for those that compile.

    The compiler of torch 2.11 cannot look through the checks.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


INSTALL = {
    "torchao": "'dragonfly_lit[fp8]'",
    "bitsandbytes": "'dragonfly_lit[quantize]'",
    "hydra_plugins": "'dragonfly_lit[sweep]'",
    "mlflow": "mlflow",
    "moto": "'moto[s3]' flask flask-cors",
    "s3fs": "'dragonfly_lit[s3]' 'moto[s3]' flask flask-cors",
    "psutil": "psutil",
}
"""What brings a module that `[dev]` does not, by its first name."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN = "-e '.[dev]' -c constraints.txt"


def pytest_terminal_summary(terminalreporter):
    """Why tests were skipped, how many for each reason, and how to have them run."""
    skipped = terminalreporter.stats.get("skipped", [])
    why = Counter(way_out(str(report.longrepr[2]).removeprefix("Skipped: ")) for report in skipped)
    if why:
        terminalreporter.write_line(f"{sum(why.values())} were skipped:")
    for reason, count in sorted(why.items()):
        terminalreporter.write_line(f"  {count} x {reason}")
    terminalreporter.write_line("Slow tests are left to `pytest -m slow`, tests of a GPU to `pytest -m gpu`.")


def way_out(reason):
    """A reason, and what to install where that is all that is missing."""
    lacking = re.match(r"could not import '(\w+)", reason)
    if lacking is None:
        return reason
    return f"{lacking[1]} is not installed: pip install {INSTALL.get(lacking[1], OWN)}"


@pytest.fixture(scope="session")
def open_chromium():
    """Opens a headless browser of a size, which keeps what its console says; all are closed at the end."""
    opened = []

    def open_one(size="1280,1000"):
        if CHROMIUM is None:
            # A browser is not a Python package; .ci/run installs one.
            pytest.skip("there is no Chromium on this machine")
        webdriver = pytest.importorskip("selenium.webdriver")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        switches = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        for switch in (*switches, f"--window-size={size}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        program = shutil.which("chromedriver")
        service = webdriver.ChromeService(program) if program else None
        opened.append(webdriver.Chrome(options=options, service=service))
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.quit()
