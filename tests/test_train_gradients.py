"""Every operation and layer of the trainer, and the whole model, against finite differences.

All in float64, where a central difference is right to about 1e-9. With dropout too: a mask is a
pure function of its seed, so the dropped network is differentiable like any other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tools.train import ops as reference
from tools.train.layers.attention import Attention
from tools.train.layers.dropout import Dropout, mix
from tools.train.layers.embedding import Embedding, OutputProjection, sinusoidal_positions
from tools.train.layers.feed_forward import FeedForward
from tools.train.layers.layer_norm import AddAndNorm, LayerNorm
from tools.train.layers.linear import Linear
from tools.train.layers.parameter import Parameter, Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes

ops = reference.load("numpy")
SEED = 0x1234_5678_9ABC_DEF0
Q_OFFSETS = np.array([0, 3, 4, 9], np.int32)
K_OFFSETS = np.array([0, 2, 7, 8], np.int32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def check(loss: Callable[[], float], x: np.ndarray, gradient: np.ndarray, n: int = 60) -> None:
    """``gradient`` is d loss / d x, at up to ``n`` elements of ``x`` (moved in place)."""
    assert gradient.shape == x.shape
    chosen = np.random.default_rng(5).permutation(x.size)[:n]
    scale = np.abs(gradient).max()
    assert scale > 0
    for i in chosen:
        place = np.unravel_index(i, x.shape)
        was, h = x[place], 1e-6
        x[place] = was + h
        above = loss()
        x[place] = was - h
        below = loss()
        x[place] = was
        assert (above - below) / (2 * h) == pytest.approx(
            gradient[place], abs=2e-7 * max(1.0, scale)
        ), place


# ------------------------------------------------------------------------------------- operations


def test_linear(rng: np.random.Generator) -> None:
    x, w, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
    weight = rng.normal(size=(5, 3))
    dx, dw, db = ops.linear_backward(weight, x, w)

    def loss() -> float:
        return float((ops.linear(x, w, b) * weight).sum())

    for array, gradient in ((x, dx), (w, dw), (b, db)):
        check(loss, array, gradient)
    total = (np.ones_like(dw), np.ones_like(db))
    none, dw_sum, db_sum = ops.linear_backward(weight, x, w, need_dx=False, out=total)
    assert none is None
    assert np.allclose(dw_sum, dw + 1) and np.allclose(db_sum, db + 1)


def test_layer_norm(rng: np.random.Generator) -> None:
    x, gamma, beta = rng.normal(2, 3, (5, 6)), rng.normal(size=6), rng.normal(size=6)
    weight = rng.normal(size=(5, 6))

    def loss() -> float:
        return float((ops.layer_norm(x, gamma, beta, 1e-5)[0] * weight).sum())

    _, mean, rstd = ops.layer_norm(x, gamma, beta, 1e-5)
    gradients = ops.layer_norm_backward(weight, x, mean, rstd, gamma)
    for array, gradient in zip((x, gamma, beta), gradients, strict=True):
        check(loss, array, gradient)


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["relu", "silu", "gelu"])
def test_activation_dropout(rng: np.random.Generator, kind: str, p: float) -> None:
    x, weight = rng.normal(0, 2, (6, 7)), rng.normal(size=(6, 7))

    def loss() -> float:
        return float((ops.activation_dropout(x, kind, p, SEED) * weight).sum())

    check(loss, x, ops.activation_dropout_backward(weight, x, kind, p, SEED))


def test_activation_of_another_name() -> None:
    with pytest.raises(ValueError, match="relu, silu or gelu, not 'swish'"):
        ops.activation_dropout(np.zeros((1, 1)), "swish", 0.0, 0)


def test_dropout_add(rng: np.random.Generator) -> None:
    x, residual, weight = (rng.normal(size=(6, 7)) for _ in range(3))

    def loss() -> float:
        return float((ops.dropout_add(x, residual, 0.4, SEED) * weight).sum())

    check(loss, x, ops.dropout_backward(weight, 0.4, SEED))
    check(loss, residual, weight)


def test_dropout_mask_keeps_the_wanted_share() -> None:
    shape = (400, 500)
    for p in (0.1, 0.3, 0.5):
        kept = reference.dropout_mask(shape, p, mix(1, 1))
        assert kept.mean() == pytest.approx(1 - p, abs=0.005)
        again = reference.dropout_mask(shape, p, mix(1, 2))
        both = (kept & again).mean()
        assert both == pytest.approx((1 - p) ** 2, abs=0.005), "masks of two seeds depend"
        shifted = (kept[:, 1:] & kept[:, :-1]).mean()
        assert shifted == pytest.approx((1 - p) ** 2, abs=0.005), "neighbours depend"


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(rng: np.random.Generator, causal: bool, p: float) -> None:
    k_offsets = Q_OFFSETS if causal else K_OFFSETS
    q = rng.normal(size=(Q_OFFSETS[-1], 6))
    k, v = (rng.normal(size=(k_offsets[-1], 6)) for _ in range(2))
    weight = rng.normal(size=q.shape)
    how = (Q_OFFSETS, k_offsets, 2, causal, p, SEED)

    def loss() -> float:
        return float((ops.attention(q, k, v, *how)[0] * weight).sum())

    _, probs = ops.attention(q, k, v, *how)
    gradients = ops.attention_backward(weight, q, k, v, probs, *how)
    for array, gradient in zip((q, k, v), gradients, strict=True):
        check(loss, array, gradient)


def test_attention_is_the_formula_sequence_by_sequence(rng: np.random.Generator) -> None:
    """No neighbour and no padding takes part; the saved probabilities are packed blocks."""
    q, k, v = (rng.normal(size=(Q_OFFSETS[-1], 6)) for _ in range(3))
    context, probs = ops.attention(q, k, v, Q_OFFSETS, Q_OFFSETS, 2, True, 0.0, 0)
    start = 0
    for i in range(3):
        rows = slice(Q_OFFSETS[i], Q_OFFSETS[i + 1])
        n = rows.stop - rows.start
        for head in range(2):
            columns = slice(3 * head, 3 * head + 3)
            scores = q[rows, columns] @ k[rows, columns].T / np.sqrt(3)
            scores[np.triu_indices(n, 1)] = -np.inf
            want = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            got = probs[start : start + n * n].reshape(n, n)
            start += n * n
            assert np.allclose(got, want, atol=1e-12)
            assert np.allclose(context[rows, columns], want @ v[rows, columns], atol=1e-12)
    assert start == probs.size


def test_embedding(rng: np.random.Generator) -> None:
    table, positions = rng.normal(size=(8, 6)), sinusoidal_positions(10, 6)
    ids, pos = np.array([3, 1, 3, 7], np.int32), np.array([0, 1, 2, 0], np.int32)
    weight = rng.normal(size=(4, 6))

    def loss() -> float:
        return float((ops.embedding(table, ids, positions, pos, 2.5, 0.3, SEED) * weight).sum())

    out = np.zeros_like(table)
    check(loss, table, ops.embedding_backward(weight, ids, 8, 2.5, 0.3, SEED, out))


def test_cross_entropy(rng: np.random.Generator) -> None:
    logits, targets = rng.normal(0, 2, (5, 9)), np.array([0, 8, 3, 3, 1], np.int32)

    def loss() -> float:
        return 0.7 * ops.softmax_xent(logits.copy(), targets, 0.1, 1.0)[0]

    gradient = logits.copy()
    total, nll = ops.softmax_xent(gradient, targets, 0.1, 0.7)
    check(loss, logits, gradient)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert nll == pytest.approx(-logp[np.arange(5), targets].sum())
    assert total == pytest.approx(0.9 * nll - 0.1 * logp.mean(axis=1).sum())


def test_rdrop(rng: np.random.Generator) -> None:
    logits, targets = rng.normal(0, 2, (10, 9)), np.array([0, 8, 3, 3, 1], np.int32)

    def loss() -> float:
        return 0.7 * ops.softmax_xent_rdrop(logits.copy(), targets, 0.1, 3.0, 1.0)[0]

    gradient = logits.copy()
    total, nll, kl = ops.softmax_xent_rdrop(gradient, targets, 0.1, 3.0, 0.7)
    check(loss, logits, gradient, n=90)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p1, p2 = p[:5], p[5:]
    assert kl == pytest.approx(((p1 - p2) * np.log(p1 / p2)).sum() / 2)
    halves = [ops.softmax_xent(half.copy(), targets, 0.1, 1.0) for half in (logits[:5], logits[5:])]
    assert nll == pytest.approx((halves[0][1] + halves[1][1]) / 2)
    assert total == pytest.approx((halves[0][0] + halves[1][0] + 3 * kl) / 2)


def test_rdrop_of_equal_passes_is_plain_cross_entropy(rng: np.random.Generator) -> None:
    logits, targets = rng.normal(0, 2, (5, 9)), np.array([0, 8, 3, 3, 1], np.int32)
    twice, once = np.concatenate([logits, logits]), logits.copy()
    total, _, kl = ops.softmax_xent_rdrop(twice, targets, 0.1, 5.0, 1.0)
    assert kl == pytest.approx(0, abs=1e-12)
    assert total == pytest.approx(ops.softmax_xent(once, targets, 0.1, 1.0)[0])
    assert np.allclose(twice[:5] + twice[5:], once)


# ----------------------------------------------------------------------------------------- layers


def parameters_of(shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> Parameters:
    n = count(shapes)
    return Parameters(shapes, rng.normal(0.3, 1, n), np.zeros(n))


def check_all(parameters: Parameters, loss: Callable[[], float], n: int = 25) -> None:
    for parameter in parameters.values():
        if parameter.name.endswith("k_proj.bias"):
            # softmax ignores what is added to all scores of a query
            assert np.abs(parameter.grad).max() < 1e-10
        else:
            check(loss, parameter.value, parameter.grad, n)


def test_linear_layer(rng: np.random.Generator) -> None:
    parameters = parameters_of({"fc.weight": (4, 3), "fc.bias": (3,)}, rng)
    layer, x, weight = (
        Linear(ops, parameters, "fc"),
        rng.normal(size=(5, 4)),
        rng.normal(size=(5, 3)),
    )
    dx = layer(x)[1](weight)

    def loss() -> float:
        return float((layer(x)[0] * weight).sum())

    check(loss, x, dx)
    check_all(parameters, loss)


@pytest.mark.parametrize("kind", [LayerNorm, AddAndNorm])
def test_norm_layers(rng: np.random.Generator, kind: type) -> None:
    parameters = parameters_of({"norm.weight": (6,), "norm.bias": (6,)}, rng)
    layer = kind(ops, parameters, "norm")
    x, residual, weight = (rng.normal(size=(5, 6)) for _ in range(3))

    def run() -> tuple[np.ndarray, Callable[[np.ndarray], object]]:
        if kind is LayerNorm:
            return layer(x + residual)
        return layer(x, residual, Dropout(residual=0.3, seed=9))

    def loss() -> float:
        return float((run()[0] * weight).sum())

    gradients = run()[1](weight)
    if kind is LayerNorm:
        gradients = (gradients, gradients)
    check(loss, x, gradients[0])
    check(loss, residual, gradients[1])
    check_all(parameters, loss)


def check_attention(layer: Attention, parameters: Parameters, width: int, own: bool) -> None:
    """Gradients of an attention layer, of itself or across, against finite differences."""
    rng = np.random.default_rng(11)
    x, weight = rng.normal(size=(9, width)), rng.normal(size=(9, width))
    memory, offsets = (x, Q_OFFSETS) if own else (rng.normal(size=(8, width)), K_OFFSETS)

    def run() -> tuple[np.ndarray, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
        return layer(x, Q_OFFSETS, memory, offsets, Dropout(attention=0.2, seed=3))

    def loss() -> float:
        return float((run()[0] * weight).sum())

    dx, dmemory = run()[1](weight)
    if own:
        check(loss, x, dx + dmemory)
    else:
        check(loss, x, dx)
        check(loss, memory, dmemory)
    check_all(parameters, loss)


@pytest.mark.parametrize("own", [True, False], ids=["self", "cross"])
def test_attention_layer(rng: np.random.Generator, own: bool) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"a.{name}.weight": (6, 6), f"a.{name}.bias": (6,)}
    parameters = parameters_of(shapes, rng)
    check_attention(Attention(ops, parameters, "a", n_heads=2, causal=own), parameters, 6, own)


def test_feed_forward_layer(rng: np.random.Generator) -> None:
    parameters = parameters_of(
        {"fc1.weight": (4, 7), "fc1.bias": (7,), "fc2.weight": (7, 4), "fc2.bias": (4,)}, rng
    )
    renamed = {f"layer.{name}": p for name, p in parameters.items()}
    layer = FeedForward(ops, renamed, "layer", "gelu")  # type: ignore[arg-type]
    x, weight = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))

    def run() -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        return layer(x, Dropout(activation=0.3, seed=3))

    def loss() -> float:
        return float((run()[0] * weight).sum())

    check(loss, x, run()[1](weight))
    check_all(parameters, loss)


def test_tied_embedding_and_output(rng: np.random.Generator) -> None:
    """Both uses of the one table add to its gradient."""
    table = Parameter("table", rng.normal(size=(8, 6)), np.zeros((8, 6)))
    bias = Parameter("bias", rng.normal(size=8), np.zeros(8))
    embedding = Embedding(ops, table, sinusoidal_positions(10, 6), scaled=True)
    output = OutputProjection(ops, table, bias)
    ids, pos, weight = np.array([3, 1, 3]), np.array([0, 1, 2]), rng.normal(size=(3, 8))

    def run() -> tuple[np.ndarray, Callable[[np.ndarray], None]]:
        x, x_backward = embedding(ids, pos, Dropout(residual=0.2, seed=2))
        logits, logits_backward = output(x)
        return logits, lambda dlogits: x_backward(logits_backward(dlogits))

    def loss() -> float:
        return float((run()[0] * weight).sum())

    run()[1](weight)
    check(loss, table.value, table.grad)
    check(loss, bias.value, bias.grad)


# ------------------------------------------------------------------------------------------ model


def small_batch(rng: np.random.Generator, copies: int):
    from tools.train.data import pack

    sources = [rng.integers(1, 12, n).tolist() for n in (3, 6, 1)]
    targets = [rng.integers(1, 12, n).tolist() for n in (4, 2, 5)]
    return pack(sources, targets, 11, copies)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("rdrop", [False, True])
def test_whole_model(rng: np.random.Generator, activation: str, rdrop: bool) -> None:
    pytest.importorskip("sentencepiece")
    config = ModelConfig(
        12, d_model=8, d_ffn=10, n_heads=2, n_encoder_layers=2, n_decoder_layers=2,
        activation=activation,
    )  # fmt: skip
    shapes = parameter_shapes(config)
    parameters = Parameters(shapes, np.zeros(count(shapes)), np.zeros(count(shapes)))
    initialize(config, parameters, 1, depth_scaled=True)
    parameters.buffer += rng.normal(0, 0.1, parameters.buffer.shape)
    model, batch = Model(config, parameters, ops), small_batch(rng, 2 if rdrop else 1)

    def run() -> tuple[float, Callable[[], None]]:
        logits, backward = model.forward(batch, Dropout(0.1, 0.2, 0.3, seed=7))
        if rdrop:
            loss = ops.softmax_xent_rdrop(logits, batch.target_ids, 0.1, 2.0, 1.0)[0]
        else:
            loss = ops.softmax_xent(logits, batch.target_ids, 0.1, 1.0)[0]
        return loss, lambda: backward(logits)

    run()[1]()
    check_all(parameters, lambda: run()[0], n=4)


def test_a_target_token_never_sees_itself(rng: np.random.Generator) -> None:
    """Changing decoder input t changes no logits before t, and none of another sentence."""
    pytest.importorskip("sentencepiece")
    config = ModelConfig(12, d_model=8, d_ffn=10, n_heads=2, n_encoder_layers=1, n_decoder_layers=2)
    shapes = parameter_shapes(config)
    parameters = Parameters(shapes, np.zeros(count(shapes)))
    initialize(config, parameters, 1, depth_scaled=False)
    model, batch = Model(config, parameters, ops), small_batch(rng, 1)
    before = model.forward(batch)[0].copy()
    moved = int(batch.target_offsets[1]) + 1  # second token of the second sentence
    batch.decoder_ids[moved] = (batch.decoder_ids[moved] + 1) % 11
    changed = np.flatnonzero((model.forward(batch)[0] != before).any(axis=1))
    assert changed.tolist() == list(range(moved, int(batch.target_offsets[2])))
