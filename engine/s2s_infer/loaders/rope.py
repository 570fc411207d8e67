"""Rotary positions of Hugging Face configs: the frequencies as data, whatever scaling made them.

Su et al., "RoFormer" (2021).  Computed as transformers does; kinds whose frequencies depend on the
length of a sequence (dynamic, longrope) are refused.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..formats.files import shown
from .fields import Fields

_Array = npt.NDArray[np.float32]


class Rotary(NamedTuple):
    """inv_freq [d_rotary / 2] radians for each position; scale: of cosines and sines."""

    inv_freq: _Array
    scale: float
    parameters: Fields
    """The keys of rope_parameters (or the old rope_scaling), for what else a family reads there."""


def read_rotary(fields: Fields, d_head: int, default_theta: float = 10000.0) -> Rotary:
    """The rotary positions of heads of width d_head.  Raises ModelError."""
    key, parameters = _parameters(fields, default_theta)
    theta = parameters.number("rope_theta")
    if theta <= 1:
        raise parameters.error("rope_theta", "it must be above 1")
    if parameters.number("partial_rotary_factor", default=1.0) != 1:
        raise parameters.error("partial_rotary_factor", "in these models whole heads turn")
    if d_head % 2:
        raise fields.error(key, f"the {d_head} elements of a head cannot turn in pairs")
    d_rotary = d_head
    kind = parameters.raw("rope_type")
    frequencies = theta ** (np.arange(0, d_rotary, 2, dtype=np.float64) / d_rotary)
    inverse = np.float32(1) / frequencies.astype(np.float32)
    scale = 1.0
    if kind == "linear":
        inverse = inverse / np.float32(parameters.positive("factor"))
    elif kind == "llama3":
        inverse = _llama3(inverse, parameters)
    elif kind == "yarn":
        inverse, scale = _yarn(inverse, d_rotary, theta, fields, parameters)
    elif kind != "default":
        raise parameters.error(
            "rope_type", "this build knows the rotary positions default, linear, llama3, yarn"
        )
    if not np.isfinite(inverse).all():
        raise fields.error(key, "that gives frequencies that are not finite")
    return Rotary(inverse.astype(np.float32), scale, parameters)


def _parameters(fields: Fields, default_theta: float) -> tuple[str, Fields]:
    """rope_parameters, or of old configs rope_scaling with rope_theta beside it; where both are
    given, transformers reads the latter."""
    key = "rope_scaling" if fields.raw("rope_scaling") else "rope_parameters"
    values: Any = fields.raw(key)
    if values is None:
        values = {}
    if not isinstance(values, dict) or any(isinstance(v, dict) for v in values.values()):
        raise fields.error(key, f"it must be one set of parameters, not {shown(values)}")
    values = dict(values)
    values.setdefault("rope_type", values.get("type", "default"))
    for name, default in (("rope_theta", default_theta), ("partial_rotary_factor", 1.0)):
        beside = fields.raw(name)
        values.setdefault(name, default if beside is None else beside)
    return key, Fields(values, fields.path)


def _llama3(inverse: _Array, parameters: Fields) -> _Array:
    """Long waves are stretched, short ones stay, those between are mixed (Llama 3.1)."""
    factor = np.float32(parameters.positive("factor"))
    low, high = parameters.positive("low_freq_factor"), parameters.positive("high_freq_factor")
    length = parameters.positive("original_max_position_embeddings")
    if high <= low:
        raise parameters.error("high_freq_factor", f"it must be above low_freq_factor = {low}")
    wave = np.float32(2 * math.pi) / inverse
    stretched = np.where(wave > np.float32(length / low), inverse / factor, inverse)
    smooth = (np.float32(length) / wave - np.float32(low)) / np.float32(high - low)
    mixed = (np.float32(1) - smooth) * stretched / factor + smooth * stretched
    between = (wave >= np.float32(length / high)) & (wave <= np.float32(length / low))
    return np.where(between, mixed, stretched)


def _yarn(
    inverse: _Array, d_rotary: int, theta: float, fields: Fields, parameters: Fields
) -> tuple[_Array, float]:
    """Peng et al., "YaRN" (2023)."""
    length = parameters.positive("original_max_position_embeddings")
    stretch = fields.positive("max_position_embeddings", default=2048) / length
    factor = parameters.positive("factor", default=stretch)
    mscale = parameters.number("mscale", default=0.0)
    mscale_all_dim = parameters.number("mscale_all_dim", default=0.0)
    scale = parameters.number("attention_factor", default=0.0)
    if not scale and mscale and mscale_all_dim:
        scale = yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all_dim)
    elif not scale:
        scale = yarn_scale(factor, 1.0)

    def dimension(rotations: float) -> float:
        return d_rotary * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(parameters.positive("beta_fast", default=32.0))
    high = dimension(parameters.positive("beta_slow", default=1.0))
    if parameters.boolean("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d_rotary - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(d_rotary // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    ramp = np.clip(ramp, 0, 1)
    return inverse / np.float32(factor) * ramp + inverse * (np.float32(1) - ramp), scale


def yarn_scale(factor: float, mscale: float) -> float:
    """By how much YaRN turns up attention for sequences `factor` times as long."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
