"""The trainer's operations in C: drop-in overrides of ``tools.train.ops`` for one CPU core.

Matrix products round their operands to bfloat16 and add in float32, on the fastest unit the CPU has
(AMX tiles, else AVX512_BF16); ``set_products("float32")`` or a CPU without either takes numpy's own
float32 product. Everything else is float32 throughout. The library is compiled by ``gcc`` (or
``$CC``) for this very CPU at first import and kept in ``~/.cache/s2s-infer`` (``$XDG_CACHE_HOME``).

Every function takes and returns what its numpy namesake does; arrays are float32 with contiguous
rows, ids and offsets int32. Column slices (views with a longer row stride) are taken as they are by
``attention`` and ``linear``. Calls hold the GIL: use one process per core.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import subprocess
import tempfile
from ctypes import POINTER, c_double, c_float, c_int, c_long, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

F32 = np.float32
Array = np.ndarray[Any, Any]

_FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno"]
_FLAGS += ["-fno-trapping-math", "-pthread", "-shared", "-fPIC"]
if platform.machine() == "x86_64":
    _FLAGS.append("-mprefer-vector-width=512")


def _cpu_identity() -> bytes:
    """What -march=native depends on, so that a cache shared between machines stays right."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().split(b"\n")
    except OSError:
        return platform.processor().encode()
    return b"".join(x for x in lines if x.startswith((b"model name", b"flags", b"Features")))[:9999]


def _build() -> Path:
    """Path of the compiled library; compiles when the cache has none for these sources and CPU."""
    here = Path(__file__).parent
    sources = [here / name for name in ("gemm.c", "attention.c", "ops.c")]
    compiler = os.environ.get("CC", "gcc")
    key = hashlib.sha256(" ".join([compiler, *_FLAGS]).encode() + _cpu_identity())
    for source in [*sources, here / "common.h"]:
        key.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2s-infer"
    library = cache / f"train-{key.hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache, suffix=".so")
        os.close(handle)
        try:
            command = [compiler, *_FLAGS, *map(str, sources), "-o", temporary, "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{compiler} could not compile the trainer: {done.stderr}")
            os.replace(temporary, library)  # atomic: another process may do the same
        finally:
            Path(temporary).unlink(missing_ok=True)
    return library


class _Attention(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("q", "k", "v", "q_offsets", "k_offsets")]
    _fields_ += [(name, c_long) for name in ("ldq", "ldk", "ldv", "n_seq", "n_heads", "dh")]
    _fields_ += [("causal", c_int), ("p", c_double), ("seed", c_uint64)]


_P, _N, _D = c_void_p, c_long, c_double
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "memory_keep": (None, []),
    "gemm_unit": (c_int, [c_int]),
    "gemm_bf16": (c_int, [_P, _N, c_int, _P, _N, c_int, _P, _N, _N, _N, _N, _P, c_int]),
    "column_sum": (None, [_P, _N, _P, _N, _N]),
    "layer_norm": (None, [_P, _P, _P, c_float, _P, _P, _P, _N, _N]),
    "layer_norm_backward": (None, [_P] * 8 + [_N, _N]),
    "activation_dropout": (None, [_P, c_int, _D, c_uint64, _P, _N]),
    "activation_dropout_backward": (None, [_P, _P, c_int, _D, c_uint64, _P, _N]),
    "dropout_add": (None, [_P, _P, _D, c_uint64, _P, _N]),
    "attention": (c_int, [POINTER(_Attention), _P, _N, _P]),
    "attention_backward": (c_int, [POINTER(_Attention), _P, _N, _P, _P, _N, _P, _N, _P, _N]),
    "embedding": (None, [_P, _P, _P, _P, c_float, _D, c_uint64, _P, _N, _N]),
    "embedding_backward": (None, [_P, _P, c_float, _D, c_uint64, _P, _N, _N]),
    "softmax_xent": (None, [_P, _P, c_float, c_float, _P, _P, _N, _N]),
    "softmax_xent_rdrop": (c_int, [_P, _P, c_float, c_float, c_float, _P, _N, _N]),
    "adam": (None, [_P] * 4 + [_D] * 5 + [_N, _D, _N]),
    "sum_squares": (_D, [_P, _N]),
}

_lib = ctypes.PyDLL(str(_build()))
for _name, (_result, _arguments) in _SIGNATURES.items():
    _function = getattr(_lib, _name)
    _function.restype, _function.argtypes = _result, _arguments
_lib.memory_keep()

_UNITS = ("blas_float32", "avx512_bf16", "amx_bf16")
_products = _UNITS[_lib.gemm_unit(len(_UNITS))]
_ACTIVATIONS = {"relu": 0, "silu": 1, "gelu": 2}


def available() -> bool:
    """True: importing this module fails (OSError, RuntimeError) where nothing can be built."""
    return True


def products() -> str:
    """The unit of matrix products: "amx_bf16", "avx512_bf16" or "blas_float32"."""
    return _products


def set_products(kind: str) -> str:
    """Chooses the unit: "bfloat16" (the best there is), "float32" (exact) or one of ``products``.

    Returns the unit in use; asking for one that this CPU lacks gives the best below it.
    """
    global _products
    limit = {"bfloat16": len(_UNITS), "float32": 0} | {name: i for i, name in enumerate(_UNITS)}
    if kind not in limit:
        raise ValueError(f"products must be one of {', '.join(limit)}, not {kind!r}")
    _products = _UNITS[_lib.gemm_unit(limit[kind])]
    return _products


def _address(x: Array) -> int:
    return x.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _new(*shape: int) -> Array:
    """An uninitialized array on a cache-line bound (numpy's own start 16 bytes after one)."""
    n = math.prod(shape)
    memory = np.empty(n + 16, F32)
    start = -_address(memory) // 4 % 16
    return memory[start : start + n].reshape(shape)


def _dense(x: Array) -> Array:
    return x if x.flags.c_contiguous and x.dtype == F32 else np.ascontiguousarray(x, F32)


def _rows(x: Array) -> Array:
    """x as float32 with contiguous rows (any row stride)."""
    ready = x.dtype == F32 and x.strides[1] == 4 and x.strides[0] % 4 == 0 and x.strides[0] > 0
    return x if ready else np.ascontiguousarray(x, F32)


def _int32(x: Array) -> Array:
    return np.ascontiguousarray(x, np.int32)


def _checked(status: int) -> None:
    if status != 0:
        raise MemoryError("the trainer's work buffer could not be allocated")


def _matmul(
    a: Array, at: int, b: Array, bt: int, c: Array, bias: Array | None = None, add: int = 0
) -> None:
    """c = op(a) . op(b) + bias (or c += op(a) . op(b)); at, bt: 1 when transposed."""
    k = a.shape[0] if at else a.shape[1]
    _checked(
        _lib.gemm_bf16(
            *(_address(a), a.strides[0] // 4, at, _address(b), b.strides[0] // 4, bt),
            *(_address(c), c.strides[0] // 4, c.shape[0], c.shape[1], k),
            *(None if bias is None else _address(bias), add),
        )
    )


def _is_transposed(w: Array) -> bool:
    return w.strides[0] == 4 and w.strides[1] != 4


def linear(x: Array, w: Array, b: Array | None) -> Array:
    y = _new(x.shape[0], w.shape[1])
    if _products == "blas_float32":
        np.matmul(x, w, out=y)
        if b is not None:
            y += b
        return y
    transposed = _is_transposed(w)
    _matmul(_rows(x), 0, _rows(w.T if transposed else w), int(transposed), y, b)
    return y


def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    need_dx: bool = True,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array | None, Array, Array]:
    dy, x = _rows(dy), _rows(x)
    db = np.zeros(dy.shape[1], F32) if out is None else out[1]
    _lib.column_sum(_address(dy), dy.strides[0] // 4, _address(db), *dy.shape)
    transposed = _is_transposed(w)
    if _products == "blas_float32":
        dw = x.T @ dy
        if out is not None:
            dw = np.add(out[0], dw, out=out[0])
        return (dy @ w.T if need_dx else None), dw, db
    dx = None
    if need_dx:
        dx = _new(dy.shape[0], w.shape[0])
        _matmul(dy, 0, _rows(w.T if transposed else w), int(not transposed), dx)
    if out is not None:
        dw = out[0]
    else:  # the gradient of a transposed table comes in the table's own layout
        dw = _new(*w.shape[::-1]).T if transposed else _new(*w.shape)
    add = int(out is not None)
    if _is_transposed(dw):
        _matmul(dy, 1, x, 0, dw.T, add=add)
    else:
        _matmul(x, 1, dy, 0, dw, add=add)
    return dx, dw, db


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    x = _dense(x)
    y, mean, rstd = _new(*x.shape), np.empty(len(x), F32), np.empty(len(x), F32)
    _lib.layer_norm(
        *(_address(x), _address(gamma), _address(beta), eps),
        *(_address(y), _address(mean), _address(rstd), *x.shape),
    )
    return y, mean, rstd


def layer_norm_backward(
    dy: Array, x: Array, mean: Array, rstd: Array, gamma: Array
) -> tuple[Array, Array, Array]:
    dy, x = _dense(dy), _dense(x)
    dx, dgamma, dbeta = _new(*x.shape), np.empty_like(gamma), np.empty_like(gamma)
    arrays = (dy, x, mean, rstd, gamma, dx, dgamma, dbeta)
    _lib.layer_norm_backward(*map(_address, arrays), *x.shape)
    return dx, dgamma, dbeta


def activation_dropout(x: Array, kind: str, p: float, seed: int) -> Array:
    x = _dense(x)
    y = _new(*x.shape)
    _lib.activation_dropout(_address(x), _ACTIVATIONS[kind], p, seed, _address(y), x.size)
    return y


def activation_dropout_backward(dy: Array, x: Array, kind: str, p: float, seed: int) -> Array:
    dy, x = _dense(dy), _dense(x)
    dx = _new(*x.shape)
    _lib.activation_dropout_backward(
        _address(dy), _address(x), _ACTIVATIONS[kind], p, seed, _address(dx), x.size
    )
    return dx


def dropout_add(x: Array, residual: Array, p: float, seed: int) -> Array:
    x, residual = _dense(x), _dense(residual)
    y = _new(*x.shape)
    _lib.dropout_add(_address(x), _address(residual), p, seed, _address(y), x.size)
    return y


def dropout_backward(dy: Array, p: float, seed: int) -> Array:
    if p == 0.0:
        return dy
    dy = _dense(dy)
    dx = _new(*dy.shape)
    _lib.dropout_add(_address(dy), None, p, seed, _address(dx), dy.size)
    return dx


def _attention_arguments(
    q: Array, k: Array, v: Array, q_offsets: Array, k_offsets: Array, n_heads: int, *rest: Any
) -> _Attention:
    """Addresses only: the caller keeps the arrays alive over the call."""
    strides = (x.strides[0] // 4 for x in (q, k, v))
    arrays = map(_address, (q, k, v, q_offsets, k_offsets))
    n_seq = len(q_offsets) - 1
    return _Attention(*arrays, *strides, n_seq, n_heads, q.shape[1] // n_heads, *rest)


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
    q, k, v = _rows(q), _rows(k), _rows(v)
    q_offsets, k_offsets = _int32(q_offsets), _int32(k_offsets)
    n_scores = n_heads * int(np.dot(np.diff(q_offsets), np.diff(k_offsets)))
    ctx, probs = _new(*q.shape), _new(n_scores)
    a = _attention_arguments(q, k, v, q_offsets, k_offsets, n_heads, causal, p, seed)
    _checked(_lib.attention(a, _address(ctx), q.shape[1], _address(probs)))
    return ctx, probs


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
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """``out``: where dq, dk, dv go (column slices of one array, say) instead of new arrays."""
    dctx, q, k, v = _rows(dctx), _rows(q), _rows(k), _rows(v)
    q_offsets, k_offsets = _int32(q_offsets), _int32(k_offsets)
    grads = out or (_new(*q.shape), _new(*k.shape), _new(*v.shape))
    a = _attention_arguments(q, k, v, q_offsets, k_offsets, n_heads, causal, p, seed)
    places = [value for x in grads for value in (_address(x), x.strides[0] // 4)]
    _checked(
        _lib.attention_backward(a, _address(dctx), dctx.strides[0] // 4, _address(probs), *places)
    )
    return grads


def embedding(
    table: Array,
    ids: Array,
    positions_table: Array,
    pos: Array,
    scale: float,
    p: float,
    seed: int,
) -> Array:
    ids, pos = _int32(ids), _int32(pos)
    y = _new(len(ids), table.shape[1])
    _lib.embedding(
        *(_address(table), _address(ids), _address(positions_table), _address(pos)),
        *(scale, p, seed, _address(y), *y.shape),
    )
    return y


def embedding_backward(
    dy: Array, ids: Array, n_vocab: int, scale: float, p: float, seed: int, out: Array
) -> Array:
    if out.shape[0] != n_vocab or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous [{n_vocab}, d] array, found {out.shape}")
    dy, ids = _dense(dy), _int32(ids)
    _lib.embedding_backward(_address(dy), _address(ids), scale, p, seed, _address(out), *dy.shape)
    return out


def softmax_xent(
    logits: Array, targets: Array, smoothing: float, grad_scale: float
) -> tuple[float, float]:
    targets, sums = _int32(targets), np.empty(2)
    _lib.softmax_xent(
        *(_address(logits), _address(targets), smoothing, grad_scale),
        *(_address(sums), _address(sums) + 8, *logits.shape),
    )
    return float(sums[0]), float(sums[1])


def softmax_xent_rdrop(
    logits: Array, targets: Array, smoothing: float, alpha: float, grad_scale: float
) -> tuple[float, float, float]:
    targets, sums = _int32(targets), np.empty(3)
    _checked(
        _lib.softmax_xent_rdrop(
            *(_address(logits), _address(targets), smoothing, alpha, grad_scale),
            *(_address(sums), len(targets), logits.shape[1]),
        )
    )
    return float(sums[0]), float(sums[1]), float(sums[2])


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
    arrays = map(_address, (param, grad, m, v))
    _lib.adam(*arrays, lr, beta1, beta2, eps, weight_decay, step, grad_scale, param.size)


def sum_squares(x: Array) -> float:
    x = _dense(x)
    return float(_lib.sum_squares(_address(x), x.size))
