"""Scores a checkpoint, or a file of answers, on benchmarks: `python evaluate.py benchmark=easy_vqa`; see README.md.

Read on in `src/dragonfly_lit/app/evaluate.py`: load, ask, score, write results.json, results.md and report.html.
"""

from dragonfly_lit.app.cli import evaluate

if __name__ == "__main__":
    evaluate()
