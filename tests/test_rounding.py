"""Error-compensated rounding: what it must keep, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from s2s_infer.loaders import int4
from s2s_infer.loaders.packing import quantized
from s2s_infer.loaders.rounding import compensated

RNG = np.random.default_rng(3)


def case(n_out: int, n_in: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight [n_out, n_in], its scale [n_out], inputs [400, n_in] that depend on each other."""
    weight = RNG.normal(size=(n_out, n_in)).astype(np.float32)
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    inputs = RNG.normal(size=(400, 12)) @ RNG.normal(size=(12, n_in))
    return weight, scale, inputs + 0.1 * RNG.normal(size=inputs.shape)


@pytest.mark.parametrize("shape", [(5, 24), (16, 128), (33, 300)])
def test_products_change_less_than_by_plain_rounding(shape: tuple[int, int]) -> None:
    weight, scale, inputs = case(*shape)
    plain = np.rint(weight / scale[:, None])
    codes = compensated(weight, scale, inputs.T @ inputs)
    assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() <= 127

    def error(found: np.ndarray) -> float:
        return float(((inputs @ (found * scale[:, None] - weight).T) ** 2).sum())

    assert error(codes) < 0.5 * error(plain)


@pytest.mark.parametrize("moments", [np.zeros((40, 40)), np.diag(np.arange(40.0))])
def test_inputs_that_do_not_depend_on_each_other_are_rounded_plainly(moments: np.ndarray) -> None:
    weight, scale, _ = case(8, 40)
    plain = np.rint(weight.astype(np.float64) / scale[:, None])
    assert np.array_equal(compensated(weight, scale, moments), plain)


def test_tiles_and_sums_hold_the_codes() -> None:
    weight, scale, inputs = case(20, 30)
    moments = inputs.T @ inputs
    found = quantized("m", weight, "int8", moments)
    codes = compensated(weight, scale, moments)
    rows = found["m"].transpose(0, 2, 1, 3).reshape(32, 32)
    assert np.array_equal(rows[:20, :30], codes)
    assert not rows[20:].any() and not rows[:, 30:].any()
    assert np.array_equal(found["m.scale"][:20], scale)
    assert np.array_equal(found["m.sum"][:20], codes.sum(axis=1, dtype=np.int32))


def test_int4_codes_are_multiples_of_their_steps_and_make_up_for_errors() -> None:
    weight, _, inputs = case(20, 70)
    steps, scale = int4.choose_steps(weight)
    own = int4.spread(steps, 70)
    plain = int4.round_to(weight, steps, scale)
    codes = compensated(weight, scale, inputs.T @ inputs, own)
    for found in (plain, codes):
        assert not (found % own).any() and (found // own).min() >= -8 and (found // own).max() <= 7
        rows = int4.as_int8(int4.pack(found, steps)).transpose(0, 2, 1, 3).reshape(32, -1)
        assert np.array_equal(rows[:20, :70], found) and not rows[20:].any()
        assert not rows[:, 70:].any()
    plain_error, error = (
        float(((inputs @ (found * scale[:, None] - weight).T) ** 2).sum())
        for found in (plain, codes)
    )
    assert error < 0.5 * plain_error


def test_int4_of_zeros_and_of_very_small_numbers() -> None:
    weight = np.zeros((4, 64), np.float32)
    weight[1, 40] = 1e-42
    weight[2] = 3.0
    weight[3, 5] = -1e30
    steps, scale = int4.choose_steps(weight)
    codes = int4.round_to(weight, steps, scale)
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert np.allclose(codes[2:] * scale[2:, None], weight[2:], rtol=0.1)
    assert not codes[:2].any()
