"""The learning rate over a run."""

import keras


def warmup_cosine(rate: float, steps: int, warmup: float) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear rise from 0 to ``rate`` over the share ``warmup`` of the steps, then half a cosine down to 0.

    Loshchilov and Hutter 2017, without restarts.
    """
    rise = round(steps * warmup)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rise else rate,
        decay_steps=max(steps - rise, 1),
        warmup_target=rate if rise else None,
        warmup_steps=rise,
    )
