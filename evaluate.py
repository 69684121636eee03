"""Scores a checkpoint, or a file of answers, on benchmarks: `python evaluate.py benchmark=easy_vqa`; see README.md."""

import sys

import hydra

from dragonfly_lit.app.errors import report_user_errors
from dragonfly_lit.app.overrides import check_types, normalize_overrides


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg) -> None:
    """Prints a table and writes results.json, results.md and report.html."""
    with report_user_errors("evaluate", job=True):
        from dragonfly_lit.app.evaluate import evaluate  # after composing: a mistyped key is answered at once

        evaluate(cfg)


if __name__ == "__main__":
    with report_user_errors("evaluate"):
        sys.argv[1:] = normalize_overrides(sys.argv[1:], "evaluate")
        check_types(sys.argv[1:], "evaluate")
        main()
