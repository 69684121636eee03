"""Where the weights of the sizes that ship are downloaded from."""

import re
from pathlib import Path

from dragonfly_lit.app.check import REPOSITORIES

ROOT = Path(__file__).resolve().parents[3]


def test_repositories_are_those_of_the_sizes_that_ship():
    page = (ROOT / "src/dragonfly_lit/models/known_configs/README.md").read_text()
    assert dict(re.findall(r"\| `([^`]+)` \| ([\w./-]+)", page)) == REPOSITORIES
