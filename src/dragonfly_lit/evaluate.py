"""`python -m dragonfly_lit.evaluate`: what `dragonfly-evaluate` does, and `evaluate.py` in a clone."""

from dragonfly_lit.app.cli import evaluate

if __name__ == "__main__":
    evaluate()
