"""A schedule of your own: the learning rate falls as 1 / sqrt(step), after a warm-up.

python ../train.py 'stage.schedule={_target_: my_parts.schedule.inverse_sqrt, warmup: 20}'
"""


def inverse_sqrt(step, steps, *, warmup=10):
    """The factor of every learning rate in one optimizer step: a pure function, so that a resumed run needs no state.

    Args:
        step: of the optimizer, counted from 0.
        steps: of the stage; this schedule does not ask for them.
        warmup: steps in which the rate rises to its peak.
    """
    return min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
