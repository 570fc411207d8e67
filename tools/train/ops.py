"""The arithmetic of the trainer: every operation of a Transformer, forward and backward, in numpy.

Sequences are *packed*: a batch is one array ``[n_tokens, d]`` without any padding, beside
``offsets`` ``[n_sequences + 1]`` that say where each sequence starts. A linear layer or a norm
never looks at the offsets; only attention does. So no time is spent on padding and none can leak
into a result.

This file is the reference: it keeps the dtype of its inputs (float64 for gradient checks) and runs
on any array module with numpy's interface (``use_array_module(cupy)``). ``load("native")`` overlays
the functions that ``tools.train.native`` has in C; their signatures and their dropout masks are the
same.
"""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

Array = Any  # an array of the module `xp`

xp: Any = numpy


def use_array_module(module: ModuleType) -> None:
    """Make all operations run on ``module`` (numpy or cupy)."""
    global xp
    xp = module


# ------------------------------------------------------------------------------------ dropout mask


def dropout_mask(shape: tuple[int, ...], p: float, seed: int) -> Array:
    """Which elements survive: bool of ``shape``, a pure function of (seed, flat index).

    A mask is recomputed in the backward pass instead of stored. The hash is the 32-bit finalizer
    "lowbias32" (C. Wellons), keyed by both halves of the 64-bit seed; an element is kept when the
    hash's upper 24 bits are at least ``round(p * 2**24)``.
    """
    n = math.prod(shape)
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    x = xp.arange(n, dtype=xp.uint32)
    x *= xp.uint32(0x9E3779B1)
    x += xp.uint32(low)
    x ^= x >> xp.uint32(16)
    x *= xp.uint32(0x7FEB352D)
    x += xp.uint32(high)
    x ^= x >> xp.uint32(15)
    x *= xp.uint32(0x846CA68B)
    x ^= x >> xp.uint32(16)
    return ((x >> xp.uint32(8)) >= xp.uint32(round(p * 2**24))).reshape(shape)


def _dropped(x: Array, p: float, seed: int) -> Array:
    if p == 0.0:
        return x
    return x * dropout_mask(x.shape, p, seed) * x.dtype.type(1.0 / (1.0 - p))


def dropout_add(x: Array, residual: Array, p: float, seed: int) -> Array:
    """``dropout(x) + residual``, both ``[N, d]``."""
    return _dropped(x, p, seed) + residual


def dropout_backward(dy: Array, p: float, seed: int) -> Array:
    """Gradient of ``dropout_add`` for ``x`` (the residual's gradient is ``dy`` itself)."""
    return _dropped(dy, p, seed)


# ---------------------------------------------------------------------------------- dense and norm


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """``x[N, K] @ w[K, M] + b[M]``."""
    y = x @ w
    if b is not None:
        y += b
    return y


def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    need_dx: bool = True,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array | None, Array, Array]:
    """Gradients ``dx[N, K]`` (None unless wanted), ``dw[K, M]``, ``db[M]``.

    With ``out`` the last two are added to these arrays instead of being new ones.
    """
    dx = dy @ w.T if need_dx else None
    dw, db = x.T @ dy, dy.sum(axis=0)
    if out is not None:
        for total, part in zip(out, (dw, db), strict=True):
            total += part
        dw, db = out
    return dx, dw, db


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """Normalize each row of ``x[N, d]``; also returns ``mean[N]`` and ``rstd[N]``."""
    mean = x.mean(axis=1)
    centered = x - mean[:, None]
    rstd = 1.0 / xp.sqrt((centered * centered).mean(axis=1) + x.dtype.type(eps))
    centered *= rstd[:, None]
    return centered * gamma + beta, mean, rstd


def layer_norm_backward(
    dy: Array, x: Array, mean: Array, rstd: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    """Gradients ``dx[N, d]``, ``dgamma[d]``, ``dbeta[d]``."""
    normal = (x - mean[:, None]) * rstd[:, None]
    dnormal = dy * gamma
    dx = dnormal - dnormal.mean(axis=1)[:, None]
    dx -= normal * (dnormal * normal).mean(axis=1)[:, None]
    dx *= rstd[:, None]
    return dx, (dy * normal).sum(axis=0), dy.sum(axis=0)


# ------------------------------------------------------------------------------------- activation


def _erf(x: Array) -> Array:
    try:
        if xp is numpy:
            from scipy.special import erf  # type: ignore[import-untyped,unused-ignore]
        else:
            from cupyx.scipy.special import erf  # type: ignore[import-not-found,unused-ignore]
        return erf(x)
    except ImportError:
        return numpy.vectorize(math.erf, otypes=[x.dtype])(x)


def activation_dropout(x: Array, kind: str, p: float, seed: int) -> Array:
    """``dropout(activation(x))`` for ``kind`` "relu", "silu" or "gelu" (the exact erf form)."""
    if kind == "relu":
        y = xp.maximum(x, 0)
    elif kind == "silu":
        y = x / (1 + xp.exp(-x))
    elif kind == "gelu":
        y = x * (0.5 * (1 + _erf(x * x.dtype.type(math.sqrt(0.5)))))
    else:
        raise ValueError(f"activation must be relu, silu or gelu, not {kind!r}")
    return _dropped(y, p, seed)


def activation_dropout_backward(dy: Array, x: Array, kind: str, p: float, seed: int) -> Array:
    """Gradient of ``activation_dropout`` for its input ``x[N, F]``."""
    dy = _dropped(dy, p, seed)
    if kind == "relu":
        return dy * (x > 0)
    if kind == "silu":
        s = 1 / (1 + xp.exp(-x))
        return dy * (s * (1 + x * (1 - s)))
    if kind == "gelu":
        cdf = 0.5 * (1 + _erf(x * x.dtype.type(math.sqrt(0.5))))
        pdf = xp.exp(-0.5 * x * x) * x.dtype.type(1 / math.sqrt(2 * math.pi))
        return dy * (cdf + x * pdf)
    raise ValueError(f"activation must be relu, silu or gelu, not {kind!r}")


# -------------------------------------------------------------------------------------- attention


def _pad_index(offsets: Array) -> tuple[Array, Array]:
    """Row index ``[B, L]`` of every (sequence, position), and which of them exist."""
    lengths = offsets[1:] - offsets[:-1]
    steps = xp.arange(int(lengths.max()), dtype=offsets.dtype)
    valid = steps < lengths[:, None]
    return xp.where(valid, offsets[:-1, None] + steps, 0), valid


def _heads(x: Array, index: Array, n_heads: int) -> Array:
    """Packed ``[N, H*dh]`` to padded ``[B, H, L, dh]``."""
    b, n = index.shape
    return x[index].reshape(b, n, n_heads, -1).transpose(0, 2, 1, 3)


def _packed(x: Array, valid: Array) -> Array:
    """Padded ``[B, H, L, dh]`` to packed ``[N, H*dh]``."""
    b, h, n, dh = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, n, h * dh)[valid]


def attention(
    q: Array,
    k: Array,
    v: Array,
    q_offsets: Array,
    k_offsets: Array,
    n_heads: int,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Array, Array]:
    """Scaled dot-product attention of packed ``q[Nq, H*dh]`` on ``k, v[Nk, H*dh]``.

    Position i of a sequence sees all keys of its own sequence, or those up to i when ``causal``.
    Returns the context ``[Nq, H*dh]`` and the probabilities before dropout, packed flat: one
    ``[H, Lq, Lk]`` block after another, one per sequence (zeros where ``causal`` hides a key).
    """
    q_index, q_valid = _pad_index(q_offsets)
    k_index, k_valid = _pad_index(k_offsets)
    dh = q.shape[1] // n_heads
    scores = _heads(q, q_index, n_heads) @ _heads(k, k_index, n_heads).transpose(0, 1, 3, 2)
    scores *= q.dtype.type(1 / math.sqrt(dh))
    visible = k_valid[:, None, None, :]
    if causal:
        n_q, n_k = scores.shape[2:]
        visible = visible & (xp.arange(n_k) <= xp.arange(n_q)[:, None])
    scores = xp.where(visible, scores, -xp.inf)
    scores -= scores.max(axis=-1, keepdims=True)
    probs = xp.exp(scores, out=scores)
    probs /= probs.sum(axis=-1, keepdims=True)
    exists = xp.broadcast_to(q_valid[:, None, :, None] & k_valid[:, None, None, :], probs.shape)
    saved = probs[exists]
    if p > 0:
        probs = xp.zeros_like(probs)
        probs[exists] = _dropped(saved, p, seed)
    return _packed(probs @ _heads(v, k_index, n_heads), q_valid), saved


def attention_backward(
    dctx: Array,
    q: Array,
    k: Array,
    v: Array,
    probs: Array,
    q_offsets: Array,
    k_offsets: Array,
    n_heads: int,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Array, Array, Array]:
    """Gradients ``dq[Nq, H*dh]``, ``dk[Nk, H*dh]``, ``dv[Nk, H*dh]``."""
    del causal  # a hidden key has probability zero, hence no gradient
    q_index, q_valid = _pad_index(q_offsets)
    k_index, k_valid = _pad_index(k_offsets)
    scale = q.dtype.type(1 / math.sqrt(q.shape[1] // n_heads))
    heads_q, heads_k = _heads(q, q_index, n_heads), _heads(k, k_index, n_heads)
    heads_dctx = _heads(dctx, q_index, n_heads)
    shape = (*heads_q.shape[:3], heads_k.shape[2])
    exists = xp.broadcast_to(q_valid[:, None, :, None] & k_valid[:, None, None, :], shape)
    padded = xp.zeros(shape, q.dtype)
    padded[exists] = probs
    dropped = padded
    dprobs = heads_dctx @ _heads(v, k_index, n_heads).transpose(0, 1, 3, 2)
    if p > 0:
        dropped = xp.zeros(shape, q.dtype)
        dropped[exists] = _dropped(probs, p, seed)
        dprobs_packed = _dropped(dprobs[exists], p, seed)
        dprobs = xp.zeros(shape, q.dtype)
        dprobs[exists] = dprobs_packed
    dscores = padded * (dprobs - (dprobs * padded).sum(axis=-1, keepdims=True))
    dscores *= scale
    return (
        _packed(dscores @ heads_k, q_valid),
        _packed(dscores.transpose(0, 1, 3, 2) @ heads_q, k_valid),
        _packed(dropped.transpose(0, 1, 3, 2) @ heads_dctx, k_valid),
    )


# -------------------------------------------------------------------------------------- embedding


def embedding(
    table: Array,
    ids: Array,
    positions_table: Array,
    pos: Array,
    scale: float,
    p: float,
    seed: int,
) -> Array:
    """``dropout(table[ids] * scale + positions_table[pos])``, ``[N, d]``."""
    return _dropped(table[ids] * table.dtype.type(scale) + positions_table[pos], p, seed)


def embedding_backward(
    dy: Array, ids: Array, n_vocab: int, scale: float, p: float, seed: int, out: Array
) -> Array:
    """Adds the gradient of the table to ``out[V, d]`` and returns it."""
    if out.shape[0] != n_vocab:
        raise ValueError(f"the table's gradient has {out.shape[0]} rows, expected {n_vocab}")
    xp.add.at(out, ids, _dropped(dy, p, seed) * dy.dtype.type(scale))
    return out


# ------------------------------------------------------------------------------------------- loss


def _log_softmax(logits: Array) -> Array:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= xp.log(xp.exp(logits).sum(axis=1, keepdims=True))
    return logits


def softmax_xent(
    logits: Array, targets: Array, smoothing: float, grad_scale: float
) -> tuple[float, float]:
    """Cross-entropy, label-smoothed; ``logits[N, V]`` becomes its gradient times ``grad_scale``.

    Per token the loss is ``(1 - eps) * nll + eps * mean over the vocabulary of -logp``.
    Returns the sums over tokens of the loss and of the plain negative log-likelihood.
    """
    n, n_vocab = logits.shape
    rows = xp.arange(n)
    logp = _log_softmax(logits)
    nll = -float(logp[rows, targets].sum(dtype=xp.float64))
    uniform = -float(logp.sum(dtype=xp.float64)) / n_vocab
    grad = xp.exp(logp, out=logits)
    grad -= logits.dtype.type(smoothing / n_vocab)
    grad[rows, targets] -= logits.dtype.type(1 - smoothing)
    grad *= logits.dtype.type(grad_scale)
    return (1 - smoothing) * nll + smoothing * uniform, nll


def softmax_xent_rdrop(
    logits: Array, targets: Array, smoothing: float, alpha: float, grad_scale: float
) -> tuple[float, float, float]:
    """R-Drop (Liang et al. 2021): two dropout passes of the same tokens that must agree.

    ``logits[2N, V]`` holds pass one in the first N rows and pass two in the last N;
    ``targets[N]``. Per token the loss is ``(xent_1 + xent_2 + alpha * kl) / 2`` with
    ``kl = (KL(p1 || p2) + KL(p2 || p1)) / 2``. ``logits`` becomes the gradient times
    ``grad_scale``. Returns the sums over the N tokens of the loss, of the mean negative
    log-likelihood, of ``kl``.
    """
    n_vocab = logits.shape[1]
    n = targets.shape[0]
    rows = xp.arange(n)
    logp = _log_softmax(logits)
    both = (logp[:n], logp[n:])
    prob = xp.exp(logp)
    p1, p2 = prob[:n], prob[n:]
    nll = -sum(float(half[rows, targets].sum(dtype=xp.float64)) for half in both)
    uniform = -float(logp.sum(dtype=xp.float64)) / n_vocab
    difference = both[0] - both[1]
    kl_12 = (p1 * difference).sum(axis=1, keepdims=True)
    kl_21 = -(p2 * difference).sum(axis=1, keepdims=True)
    kl = float((kl_12 + kl_21).sum(dtype=xp.float64)) / 2
    gap = p1 - p2
    half_alpha = logits.dtype.type(alpha / 2)
    # d kl / d logits_1 = (p1 * (log p1 - log p2 - KL(p1 || p2)) + p1 - p2) / 2, and mirrored
    logits[:n] = half_alpha * (p1 * (difference - kl_12) + gap)
    logits[n:] = half_alpha * (p2 * (-difference - kl_21) - gap)
    logits += prob
    logits -= logits.dtype.type(smoothing / n_vocab)
    for half in (logits[:n], logits[n:]):
        half[rows, targets] -= logits.dtype.type(1 - smoothing)
    logits *= logits.dtype.type(grad_scale / 2)
    loss = ((1 - smoothing) * nll + smoothing * uniform + alpha * kl) / 2
    return loss, nll / 2, kl


# -------------------------------------------------------------------------------------- optimizer


def sum_squares(x: Array) -> float:
    """Sum of squares in float64 (for the gradient norm)."""
    flat = x.reshape(-1)
    if xp is not numpy:
        return float(xp.square(flat.astype(xp.float64)).sum())
    block = 1 << 16  # one cache-sized float64 copy at a time
    parts = (flat[i : i + block].astype(xp.float64) for i in range(0, flat.size, block))
    return float(sum(xp.dot(part, part) for part in parts))


def adam(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
) -> None:
    """One step of Adam with decoupled weight decay (AdamW), in place on flat arrays.

    ``grad`` is multiplied by ``grad_scale`` (gradient clipping); ``step`` counts from 1.
    """
    correction1 = 1 - beta1**step
    correction2 = 1 - beta2**step
    block = param.size if xp is not numpy else 1 << 15  # stay in the cache over the passes
    scalar = param.dtype.type
    for start in range(0, param.size, block):
        part = slice(start, start + block)
        g = grad[part] * scalar(grad_scale)
        m[part] += scalar(1 - beta1) * (g - m[part])
        v[part] += scalar(1 - beta2) * (g * g - v[part])
        update = m[part] / (xp.sqrt(v[part] * scalar(1 / correction2)) + scalar(eps))
        update *= scalar(lr / correction1)
        if weight_decay:
            update += scalar(lr * weight_decay) * param[part]
        param[part] -= update


# -------------------------------------------------------------------------------------- selection

NAMES = (
    "linear",
    "linear_backward",
    "layer_norm",
    "layer_norm_backward",
    "activation_dropout",
    "activation_dropout_backward",
    "dropout_add",
    "dropout_backward",
    "attention",
    "attention_backward",
    "embedding",
    "embedding_backward",
    "softmax_xent",
    "softmax_xent_rdrop",
    "adam",
    "sum_squares",
)


def load(kind: str = "auto") -> SimpleNamespace:
    """The table of operations: "numpy", "native" (C over numpy) or "auto" (native if it builds).

    ``.kind`` says which one it became. Raises RuntimeError when "native" cannot be built.
    """
    if kind not in ("numpy", "native", "auto"):
        raise ValueError(f"ops must be numpy, native or auto, not {kind!r}")
    table = SimpleNamespace(kind="numpy", **{name: globals()[name] for name in NAMES})
    if kind == "numpy" or (kind == "auto" and xp is not numpy):
        return table
    try:
        from tools.train import native

        for name in NAMES:
            if hasattr(native, name):
                setattr(table, name, getattr(native, name))
        table.kind = "native"
    except (ImportError, OSError, RuntimeError) as error:
        if kind == "native":
            raise RuntimeError(f"the native operations are not available: {error}") from error
    return table
