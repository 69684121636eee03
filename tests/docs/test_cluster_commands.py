"""Every training command of the pages starts on any usual cluster."""

import re
import shlex
from pathlib import Path

import pytest
from command_checks import MISSING, refusal
from docs_pages import PAGES, blocks, commands

from dragonfly_lit.app.build import compose
from dragonfly_lit.data.dealing import MANY, SAMPLES_PER_STREAM, check_streams, choose_streams, fit_workers

FOUND = {
    tuple(shlex.split(command))
    for page in PAGES
    for block in blocks(page)
    if block.how == "compose"
    for command in commands(block.body)
    if "train.py" in command and " -m " not in command
}


@pytest.mark.parametrize("words", sorted(FOUND), ids=" ".join)
def test_it_starts_on_1_to_128_ranks_with_0_to_12_workers(words):
    at = next(place for place, word in enumerate(words) if Path(word).name == "train.py")
    config = compose(list(words[at + 1 :]))
    refused = refusal(config)
    assert refused is None or re.search(MISSING, refused), refused
    given = config["data"]["num_streams"]
    for ranks in range(1, 129):
        for num_samples in (4000, MANY * SAMPLES_PER_STREAM):
            num_streams = given or choose_streams(num_samples, ranks)
            for num_workers in range(13):
                fitting = num_workers if given else fit_workers(num_streams, ranks, num_workers)
                check_streams(num_streams, ranks, fitting)


def test_there_are_some():
    assert any("trainer=gpu8" in words for words in FOUND)
