"""Learning rate over time."""

from __future__ import annotations

import math


def learning_rate(
    kind: str, peak: float, step: int, warmup: int, progress: float, final: float = 0.02
) -> float:
    """Rate of ``step`` (from 1): linear up to ``peak`` over ``warmup`` steps, then down.

    "inverse-sqrt" falls with the square root of the step (Vaswani et al. 2017); "cosine" falls to
    ``final * peak`` as ``progress`` goes from 0 to 1; "constant" stays.
    """
    ramp = min(1.0, step / max(1, warmup))
    if kind == "inverse-sqrt":
        return peak * min(ramp, math.sqrt(max(1, warmup) / step))
    if kind == "cosine":
        return peak * ramp * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if kind == "constant":
        return peak * ramp
    raise ValueError(f"schedule must be inverse-sqrt, cosine or constant, not {kind!r}")
