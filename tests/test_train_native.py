"""The trainer's C operations against their numpy reference, at awkward sizes and with dropout.

float32 operations must agree to rounding. Products round each operand to bfloat16 (8 bits: relative
error at most 2**-8 per operand, so 2**-7 per term): with independent terms the error of a sum of K
terms grows like sqrt(K) * 2**-8 * |term|, and it can never exceed 2**-7 * sum |terms|.
"""

from __future__ import annotations

import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

from tools.train import ops

try:
    from tools.train import native
except (OSError, RuntimeError) as error:
    pytest.skip(f"the native operations do not build here: {error}", allow_module_level=True)

SEED = 0x9E3779B97F4A7C15
P = 0.3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(params=["float32", "avx512_bf16", "amx_bf16"])
def unit(request: pytest.FixtureRequest):
    found = native.set_products(request.param)
    if found not in (request.param, "blas_float32") or (
        found == "blas_float32" and request.param != "float32"
    ):
        native.set_products("bfloat16")
        pytest.skip(f"this CPU has no {request.param}")
    yield found
    native.set_products("bfloat16")


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def close(found, expected, tolerance: float = 3e-6) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert float(np.abs(found - expected).max(initial=0)) <= tolerance * scale


def assert_product(found: np.ndarray, a: np.ndarray, b: np.ndarray, unit: str) -> None:
    a, b = a.astype(np.float64), b.astype(np.float64)
    error, bound = np.abs(found - a @ b), np.abs(a) @ np.abs(b)
    relative = 2.0**-7 if unit != "blas_float32" else 2.0**-20
    assert (error <= relative * bound + 1e-6).all()
    if unit != "blas_float32" and a.shape[1] >= 64:  # no bias: errors are random, not systematic
        assert error.mean() <= 2.0**-8 * bound.mean() / math.sqrt(a.shape[1]) * 2


SIZES = [
    (1, 1, 1),
    (3, 5, 7),
    (16, 32, 16),
    (33, 65, 47),
    (17, 1030, 31),
    (530, 40, 100),
    (70, 64, 64),
]


@pytest.mark.parametrize(("n", "k", "m"), SIZES)
def test_linear_and_its_gradients(rng, unit, n, k, m) -> None:
    x, w, b, dy = normal(rng, n, k), normal(rng, k, m), normal(rng, m), normal(rng, n, m)
    assert_product(native.linear(x, w, None), x, w, unit)
    close(native.linear(x, w, b), native.linear(x, w, None) + b)
    dx, dw, db = native.linear_backward(dy, x, w)
    assert_product(dx, dy, w.T, unit)
    assert_product(dw, x.T, dy, unit)
    close(db, dy.sum(axis=0), 1e-5)
    assert native.linear_backward(dy, x, w, need_dx=False)[0] is None
    out = (w.copy(), b.copy())
    native.linear_backward(dy, x, w, out=out)
    close(out[0], w + dw, 1e-5)
    close(out[1], b + db, 1e-5)


def test_linear_takes_a_tied_table_without_a_copy(rng, unit) -> None:
    x, table, dy = normal(rng, 45, 24), normal(rng, 37, 24), normal(rng, 45, 37)
    assert_product(native.linear(x, table.T, None), x, table.T, unit)
    dx, dw, _ = native.linear_backward(dy, x, table.T)
    assert_product(dx, dy, table, unit)
    assert_product(dw, x.T, dy, unit)
    if unit != "blas_float32":
        assert dw.T.flags.c_contiguous
    total = table.copy()
    native.linear_backward(dy, x, table.T, out=(total.T, np.zeros(37, np.float32)))
    close(total, table + dw.T, 1e-5)


def test_linear_takes_column_slices(rng, unit) -> None:
    wide, w = normal(rng, 45, 96), normal(rng, 32, 20)
    part = wide[:, 32:64]
    close(native.linear(part, w, None), native.linear(part.copy(), w, None))


def test_integers_are_exact_in_every_unit(rng, unit) -> None:
    x = rng.integers(-8, 9, (50, 70)).astype(np.float32)
    w = rng.integers(-8, 9, (70, 33)).astype(np.float32)
    assert (native.linear(x, w, None) == x @ w).all()


@pytest.mark.parametrize("d", [1, 4, 16, 31, 256])
def test_layer_norm(rng, d) -> None:
    x, gamma, beta, dy = normal(rng, 9, d) + 3, normal(rng, d), normal(rng, d), normal(rng, 9, d)
    found, expected = (o.layer_norm(x, gamma, beta, 1e-5) for o in (native, ops))
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-5 if d > 1 else 1e-3)
    _, mean, rstd = expected
    for a, b in zip(
        native.layer_norm_backward(dy, x, mean, rstd, gamma),
        ops.layer_norm_backward(dy, x, mean, rstd, gamma),
        strict=True,
    ):
        close(a, b, 1e-5)


@pytest.mark.parametrize("p", [0.0, P])
@pytest.mark.parametrize("kind", ["relu", "silu", "gelu"])
def test_activation(rng, kind, p) -> None:
    x, dy = normal(rng, 13, 37) * 4, normal(rng, 13, 37)
    x[0, :4] = [0, -100, 100, 1e-30]
    x = x.astype(np.float64).astype(np.float32)
    expected = ops.activation_dropout(x.astype(np.float64), kind, p, SEED)
    close(native.activation_dropout(x, kind, p, SEED), expected)
    close(
        native.activation_dropout_backward(dy, x, kind, p, SEED),
        ops.activation_dropout_backward(dy.astype(np.float64), x.astype(np.float64), kind, p, SEED),
    )


@pytest.mark.parametrize("p", [0.0, 0.1, P, 0.5])
def test_dropout_masks_are_those_of_the_reference(rng, p) -> None:
    x, residual = normal(rng, 50, 37), normal(rng, 50, 37)
    assert (native.dropout_backward(x, p, SEED) == ops.dropout_backward(x, p, SEED)).all()
    close(native.dropout_add(x, residual, p, SEED), ops.dropout_add(x, residual, p, SEED))


LENGTHS = [([1], [1]), ([3, 1, 7], [3, 1, 7]), ([5, 17, 2], [33, 1, 16])]


@pytest.mark.parametrize("p", [0.0, P])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS)
def test_attention(rng, q_lengths, k_lengths, causal, p) -> None:
    if causal and q_lengths != k_lengths:
        q_lengths = k_lengths
    n_heads, dh = 3, 20
    q_offsets, k_offsets = (
        np.concatenate([[0], np.cumsum(x)]).astype(np.int32) for x in (q_lengths, k_lengths)
    )
    q, dctx = (normal(rng, q_offsets[-1], n_heads * dh) for _ in range(2))
    k, v = (normal(rng, k_offsets[-1], n_heads * dh) for _ in range(2))
    rest = (q_offsets, k_offsets, n_heads, causal, p, SEED)
    ctx, probs = native.attention(q, k, v, *rest)
    ctx_expected, probs_expected = ops.attention(q, k, v, *rest)
    close(probs, probs_expected)
    close(ctx, ctx_expected)
    expected = ops.attention_backward(dctx, q, k, v, probs_expected, *rest)
    for a, b in zip(
        native.attention_backward(dctx, q, k, v, probs_expected, *rest), expected, strict=True
    ):
        close(a, b, 1e-5)
    # the same from and into column slices of wider arrays
    if q_lengths == k_lengths:
        fused = np.concatenate([q, k, v], axis=1)
        d = n_heads * dh
        parts = (fused[:, :d], fused[:, d : 2 * d], fused[:, 2 * d :])
        assert (native.attention(*parts, *rest)[0] == ctx).all()
        grad = np.full_like(fused, np.nan)
        out = (grad[:, :d], grad[:, d : 2 * d], grad[:, 2 * d :])
        native.attention_backward(dctx, *parts, probs, *rest, out=out)
        close(grad, np.concatenate(expected, axis=1), 1e-5)


@pytest.mark.parametrize("p", [0.0, P])
def test_embedding(rng, p) -> None:
    table, positions, dy = normal(rng, 11, 20), normal(rng, 8, 20), normal(rng, 30, 20)
    ids, pos = rng.integers(0, 11, 30), np.arange(30) % 8
    a, b = (o.embedding(table, ids, positions, pos, 4.5, p, SEED) for o in (native, ops))
    close(a, b)
    start = normal(rng, 11, 20)
    a, b = (o.embedding_backward(dy, ids, 11, 4.5, p, SEED, start.copy()) for o in (native, ops))
    close(a, b, 1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n_vocab", [2, 33, 4000])
def test_loss(rng, n_vocab, smoothing) -> None:
    logits, targets = normal(rng, 14, n_vocab) * 5, rng.integers(0, n_vocab, 14)
    a, b = logits.copy(), logits.astype(np.float64)
    close(
        native.softmax_xent(a, targets, smoothing, 0.25),
        ops.softmax_xent(b, targets, smoothing, 0.25),
    )
    close(a, b)
    a, b = logits.copy(), logits.astype(np.float64)
    close(
        native.softmax_xent_rdrop(a, targets[:7], smoothing, 3.0, 0.25),
        ops.softmax_xent_rdrop(b, targets[:7], smoothing, 3.0, 0.25),
        1e-5,
    )
    close(a, b)


def test_adam(rng) -> None:
    state = [normal(rng, 1000) for _ in range(3)] + [np.abs(normal(rng, 1000))]
    rest = (1e-2, 0.9, 0.98, 1e-9, 0.1, 3, 0.5)
    found, expected = [x.copy() for x in state], [x.astype(np.float64) for x in state]
    native.adam(*found, *rest)
    ops.adam(*expected, *rest)
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    assert native.sum_squares(state[0]) == pytest.approx(ops.sum_squares(state[0]), rel=1e-6)


def _product_in_child(queue) -> None:
    queue.put(native.linear(np.eye(40, dtype=np.float32), np.eye(40, dtype=np.float32), None))


def test_products_work_after_fork() -> None:
    native.linear(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), None)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_product_in_child, args=(queue,))
    child.start()
    assert (queue.get(timeout=60) == np.eye(40)).all()
    child.join()


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="products must be one of"):
        native.set_products("int3")


def test_the_table_of_operations_uses_it() -> None:
    table: SimpleNamespace = ops.load("native")
    assert table.kind == "native"
    assert table.linear is native.linear
