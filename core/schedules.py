"""Numbers that change during training: the two published list notations, their scaling, the learning rate."""

from collections.abc import Sequence

from core.errors import InputError

Scheduled = float | Sequence[float]

TEACHER_STEPS = 25_000
"""Optimiser steps that the teacher's published step thresholds are written for."""
STUDENT_ITERATIONS = 30_000
"""Iterations of the published student checkpoint, which its iteration thresholds are written for."""


def scaled(steps: float, max_steps: int, reference_steps: int) -> int:
    """A threshold written for a run of ``reference_steps``, moved to the same fraction of ``max_steps``."""
    return round(steps * max_steps / reference_steps)


def teacher_schedule(value: Scheduled, step: int, epoch: float = 0.0) -> float:
    """The teacher's scheduled number at ``step`` (optimiser steps) and ``epoch`` (teacher spec 1.3).

    A number is constant. ``[a, b, t]`` is a before t, then b. ``[t0, a, b, t1]`` is 0 before t0, then runs linearly
    from a to b at t1 and stays. An int t or t1 counts steps, a float counts epochs.

    Raises:
        InputError: the list has another length.
    """
    if not isinstance(value, Sequence):
        return float(value)
    items = list(value)
    if len(items) == 3:
        before, after, threshold = items
        return float(before if _clock(threshold, step, epoch) < threshold else after)
    if len(items) == 4:
        begin, first, last, end = items
        now = _clock(end, step, epoch)
        if now < begin:
            return 0.0
        fraction = min(1.0, (now - begin) / (end - begin)) if end > begin else 1.0
        return float(first + (last - first) * fraction)
    raise InputError(
        "scheduled number",
        found=f"a list of {len(items)} items {items}",
        expected="a number, [before, after, step] or [begin, first, last, end]",
        next_step="Correct the value in the configuration.",
    )


def scale_teacher_schedule(value: Scheduled, max_steps: int, reference_steps: int = TEACHER_STEPS) -> Scheduled:
    """The same schedule stretched to ``max_steps``: thresholds in steps and in epochs both move."""
    if not isinstance(value, Sequence) or max_steps == reference_steps:
        return value
    items = list(value)
    for position in {3: [2], 4: [0, 3]}.get(len(items), []):
        threshold = items[position] * max_steps / reference_steps
        items[position] = round(threshold) if isinstance(items[-1], int) else float(threshold)
    return items


def piecewise_constant(value: Scheduled, iteration: int) -> float:
    """The student's scheduled number: a number, or ``[v0, i1, v1, i2, v2, ...]`` = v0 before iteration i1, then v1 ...

    Raises:
        InputError: the list has an even length, or its iterations do not ascend.
    """
    if not isinstance(value, Sequence):
        return float(value)
    items = list(value)
    thresholds, values = items[1::2], items[0::2]
    if len(items) % 2 == 0 or thresholds != sorted(thresholds):
        raise InputError(
            "scheduled number",
            found=f"{items}",
            expected="[value, iteration, value, iteration, value, ...] with ascending iterations",
            next_step="Correct the value in the configuration.",
        )
    return float(values[sum(iteration >= threshold for threshold in thresholds)])


def scale_piecewise(value: Scheduled, iterations: int, reference_iterations: int = STUDENT_ITERATIONS) -> Scheduled:
    """The same piecewise-constant list stretched to ``iterations``."""
    if not isinstance(value, Sequence):
        return value
    return [scaled(x, iterations, reference_iterations) if i % 2 else x for i, x in enumerate(value)]


def learning_rate_factor(
    step: int, warmup_steps: int, milestones: Sequence[int], *, gamma: float = 0.3, warmup_start: float = 0.01
) -> float:
    """Factor on the base learning rate: linear warm-up from ``warmup_start``, then ``gamma`` at every milestone.

    Milestones count from the end of the warm-up, as in the published runs (teacher spec 6.2): 12500 after a warm-up
    of 1000 steps takes effect at step 13500.
    """
    if step < warmup_steps:
        return warmup_start + (1 - warmup_start) * step / warmup_steps
    return gamma ** sum(step - warmup_steps >= milestone for milestone in milestones)


def exponential_decay(step: int, first: float, last: float, steps: int) -> float:
    """Log-linear from ``first`` at step 0 to ``last`` at ``steps`` and after (the position learning rate of 3DGS)."""
    return first * (last / first) ** min(1.0, step / steps)


def _clock(threshold: float, step: int, epoch: float) -> float:
    return step if isinstance(threshold, int) else epoch
