"""Row-major weights into the packed tensors of the core; csrc/s2s.h says what each is called.

Heads are padded to a multiple of 16 with zeros, which add nothing to a product: zero outputs of q,
k and v, and zero inputs of the output projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..config import ModelConfig, StackConfig
from ..errors import ModelError, OptionError
from . import int4

TILE = 16
LATENT_TILE = 32
"""Latents are padded to it, so that a bfloat16 key's first elements are in the order of values."""
SCALE, SUM = ".scale", ".sum"
"""What an int8 matrix NAME has beside it is called NAME.scale and NAME.sum."""

Matrix = npt.NDArray[np.float32]


class Linear(NamedTuple):
    """y = x weight^T + bias, as in PyTorch: weight [n_out, n_in], bias [n_out] or None."""

    weight: Matrix
    bias: Matrix | None


class Packer:
    """Collects packed tensors by their canonical names, in the order in which they are added."""

    def __init__(self, dtype: str) -> None:
        """dtype: storage of the matrices, one of DTYPES."""
        self.tensors: dict[str, npt.NDArray[Any]] = {}
        self._dtype = dtype

    def matrix(self, name: str, weight: Matrix) -> None:
        """weight [n_out, n_in] -> tiles [ceil(n_out / 16), n_in, 16]; for int8, tiles [ceil(n_out /
        16), ceil(n_in / 4), 16, 4] with NAME.scale and NAME.sum; for int4 see `int4`.

        Raises ModelError if int8 cannot hold the weight.
        """
        weight = np.ascontiguousarray(weight, np.float32)
        if self._dtype in ("int8", "int4"):
            self.tensors.update(quantized(name, weight, self._dtype))
        else:
            self.tensors[name] = _core.pack(weight, self._dtype)

    def vector(self, name: str, values: Matrix) -> None:
        """Any array, as it is."""
        self.tensors[name] = np.ascontiguousarray(values, np.float32)

    def bias(self, name: str, values: Matrix) -> None:
        """[n] -> [16 * ceil(n / 16)]"""
        self.vector(name, np.pad(values, (0, -len(values) % TILE)))

    def linear(self, name: str, linear: Linear) -> None:
        self.matrix(f"{name}.weight", linear.weight)
        if linear.bias is not None:
            self.bias(f"{name}.bias", linear.bias)

    def norm(self, name: str, weight: Matrix, bias: Matrix | None = None) -> None:
        """bias: None for an RMS norm."""
        self.vector(f"{name}.weight", weight)
        if bias is not None:
            self.vector(f"{name}.bias", bias)

    def gated(self, name: str, gate: Linear, up: Linear) -> None:
        """Both [d_ffn, d_model], to the one matrix that makes gate and up."""
        self.linear(name, _stack([_pad_outputs(linear, 1) for linear in (gate, up)]))

    def embeddings(self, source: Matrix | None, target: Matrix, output: Matrix) -> None:
        """The uses of embeddings, [n_tokens, d_model] each: encoder input (None: there is no
        encoder), decoder input, output.  What is equal is stored once."""
        if _same(target, output):
            self.matrix("shared.embed", target)
            if source is not None and not _same(source, target):
                self.matrix("encoder.embed", source)
        elif source is not None and _same(source, target):
            self.matrix("shared.embed", target)
            self.matrix("output.weight", output)
        else:
            if source is not None:
                self.matrix("encoder.embed", source)
            self.matrix("decoder.embed", target)
            self.matrix("output.weight", output)

    def self_attention(
        self, name: str, stack: StackConfig, q: Linear, k: Linear, v: Linear, out: Linear
    ) -> None:
        """q [n_heads * d_head, d_model]; k, v [n_kv_heads * d_head, d_model]; out [d_model, n_heads
        * d_head]."""
        kv = [_pad_outputs(linear, stack.n_kv_heads) for linear in (k, v)]
        self.linear(f"{name}.qkv", _stack([_pad_outputs(q, stack.n_heads), *kv]))
        self.linear(f"{name}.out", _pad_inputs(out, stack.n_heads))

    def latent_attention(
        self,
        name: str,
        stack: StackConfig,
        q_down: Linear | None,
        q: Linear,
        kv_down: Linear,
        kv_up: Matrix,
        out: Linear,
    ) -> None:
        """Of each head first the plain part, then the one that turns: q [n_heads * (d_head +
        d_rotary), q_rank or d_model]; kv_down [kv_rank + d_rotary, d_model]; of each head first its
        key's, then its value's: kv_up [n_heads * (d_head + d_value), kv_rank]; out [d_model,
        n_heads * d_value].  q_down [q_rank, d_model] or None."""
        n, d_head, d_value, rank = stack.n_heads, stack.d_head, stack.d_value, stack.kv_rank
        if q_down is not None:
            self.linear(f"{name}.q_down", q_down)
        parts = q.weight.reshape(n, d_head + stack.d_rotary, -1)
        padded = [_pad_axis(parts[:, :d_head], 1), _pad_axis(parts[:, d_head:], 1)]
        self.matrix(f"{name}.q.weight", np.concatenate(padded, 1).reshape(-1, parts.shape[2]))
        if q_down is None and stack.qkv_bias:
            bias = np.zeros(len(q.weight), np.float32) if q.bias is None else q.bias
            rows = bias.reshape(n, d_head + stack.d_rotary)
            both = [_pad_axis(rows[:, :d_head], 1), _pad_axis(rows[:, d_head:], 1)]
            self.vector(f"{name}.q.bias", np.concatenate(both, 1).reshape(-1))
        up = kv_up.reshape(n, d_head + d_value, rank)
        k_up = _pad_axis(up[:, :d_head].transpose(0, 2, 1), 1, LATENT_TILE)
        self.matrix(f"{name}.k_up.weight", k_up.reshape(-1, d_head))
        self.linear(f"{name}.kv_down", _pad_latent(kv_down, rank))
        self.matrix(f"{name}.v_up.weight", _pad_axis(up[:, d_head:], 1).reshape(-1, rank))
        self.linear(f"{name}.out", _pad_inputs(out, n))

    def cross_attention(
        self, name: str, stack: StackConfig, q: Linear, k: Linear, v: Linear, out: Linear
    ) -> None:
        """Shapes as for self_attention."""
        self.linear(f"{name}.q", _pad_outputs(q, stack.n_heads))
        self.linear(f"{name}.kv", _stack([_pad_outputs(li, stack.n_kv_heads) for li in (k, v)]))
        self.linear(f"{name}.out", _pad_inputs(out, stack.n_heads))


def _same(a: Matrix, b: Matrix) -> bool:
    return a is b or np.array_equal(a.view(np.uint32), b.view(np.uint32))  # bits, NaN included


def _pad_axis(array: Matrix, axis: int, unit: int = TILE) -> Matrix:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % unit)
    return np.pad(array, widths)


def _pad_latent(linear: Linear, rank: int) -> Linear:
    """[rank + d_rotary, n_in] -> each part padded."""

    def pad(array: Matrix) -> Matrix:
        return np.concatenate([_pad_axis(array[:rank], 0, LATENT_TILE), _pad_axis(array[rank:], 0)])

    return Linear(pad(linear.weight), None if linear.bias is None else pad(linear.bias))


def _pad_outputs(linear: Linear, n_heads: int) -> Linear:
    """[n_heads * d_head, n_in] -> [n_heads * dh, n_in], dh = d_head rounded up to 16"""
    n_out, n_in = linear.weight.shape
    d_head = n_out // n_heads
    padding = -d_head % TILE
    if not padding:
        return linear
    weight = np.pad(linear.weight.reshape(n_heads, d_head, n_in), ((0, 0), (0, padding), (0, 0)))
    bias = linear.bias
    if bias is not None:
        bias = np.pad(bias.reshape(n_heads, d_head), ((0, 0), (0, padding))).reshape(-1)
    return Linear(weight.reshape(-1, n_in), bias)


def _pad_inputs(linear: Linear, n_heads: int) -> Linear:
    """[n_out, n_heads * d_head] -> [n_out, n_heads * dh]"""
    n_out, n_in = linear.weight.shape
    d_head = n_in // n_heads
    padding = -d_head % TILE
    if not padding:
        return linear
    weight = np.pad(linear.weight.reshape(n_out, n_heads, d_head), ((0, 0), (0, 0), (0, padding)))
    return Linear(weight.reshape(n_out, -1), linear.bias)


def _stack(linears: list[Linear]) -> Linear:
    """One product of all outputs; where only some have a bias, the others' are zeros."""
    weight = np.concatenate([li.weight for li in linears])
    if all(li.bias is None for li in linears):
        return Linear(weight, None)
    biases = [
        np.zeros(li.weight.shape[0], np.float32) if li.bias is None else li.bias for li in linears
    ]
    return Linear(weight, np.concatenate(biases))


def quantized(
    name: str, weight: Matrix, dtype: str, moments: npt.NDArray[np.float64] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The int8 or int4 tensors of a matrix [n_out, n_in], by name: int4 where it may be, else int8.
    Raises ModelError.

    moments: [n_in, n_in], the sum of x x^T over inputs x; then weights are not rounded each by
    itself, but to what changes the products of such inputs least (`rounding`).
    """
    try:
        tiles, scale, sums = _core.pack_int8(weight)
    except OptionError as error:
        raise ModelError(f"the tensor {name} cannot be int8: {error}") from error
    n_out, n_in = weight.shape
    if dtype == "int4" and int4.is_int4(name):
        steps, scale[:n_out] = int4.choose_steps(weight)
        if moments is None:
            codes = int4.round_to(weight, steps, scale[:n_out])
        else:
            from .rounding import compensated

            codes = compensated(weight, scale[:n_out], moments, int4.spread(steps, n_in))
        sums[:n_out] = codes.sum(axis=1, dtype=np.int32)
        return {name: int4.pack(codes, steps), name + SCALE: scale, name + SUM: sums}
    if moments is not None:
        from .rounding import compensated

        codes = np.zeros((len(tiles) * TILE, 4 * tiles.shape[1]), np.int8)
        codes[:n_out, :n_in] = compensated(weight, scale[:n_out], moments)
        tiles[...] = codes.reshape(len(tiles), TILE, -1, 4).transpose(0, 2, 1, 3)
        sums[...] = codes.sum(axis=1, dtype=np.int32)
    return {name: tiles, name + SCALE: scale, name + SUM: sums}


def to_dtype(
    tensors: Mapping[str, npt.NDArray[Any]],
    dtype: str,
    config: ModelConfig,
    moments: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Packed tensors with their matrices in another of DTYPES; rounding is as in Packer.

    moments: for int8 and int4, those of `quantized` by the names of matrices; others are rounded
    plainly.
    Raises ModelError.
    """
    result: dict[str, npt.NDArray[Any]] = {}
    for name, array in tensors.items():
        if name.endswith((SCALE, SUM)):
            continue
        if array.dtype in (np.int8, np.uint8):
            tiles = _dequantized(name, array, tensors, config)
        elif array.ndim == 3:
            tiles = array
        else:  # only matrices, which are in tiles, change
            result[name] = array
            continue
        if dtype in ("int8", "int4"):
            full = to_float32(tiles)
            weight = full.transpose(0, 2, 1).reshape(-1, full.shape[1])
            own = None if moments is None else moments.get(name)
            result.update(quantized(name, np.ascontiguousarray(weight), dtype, own))
        else:
            result[name] = to_float32(tiles) if dtype == "float32" else to_bfloat16(tiles)
    return result


def _dequantized(
    name: str,
    tiles: npt.NDArray[Any],
    tensors: Mapping[str, npt.NDArray[Any]],
    config: ModelConfig,
) -> Matrix:
    """int8 or int4 tiles of an untrusted file as float32 tiles [n_tiles, n_in, 16]."""
    if tiles.dtype == np.uint8:
        if tiles.ndim != 4 or tiles.shape[2:] != (17, 64):
            raise ModelError(
                f"tensor {name} must have shape [tiles, inputs / 128, 17, 64], but has "
                f"{list(tiles.shape)}."
            )
        tiles = int4.as_int8(tiles)
    if tiles.ndim != 4 or tiles.shape[2:] != (TILE, 4):
        raise ModelError(
            f"tensor {name} must have shape [tiles, inputs / 4, {TILE}, 4], but has "
            f"{list(tiles.shape)}."
        )
    scale = tensors.get(name + SCALE)
    if scale is None or scale.dtype != np.float32 or scale.shape != (len(tiles) * TILE,):
        raise ModelError(f"tensor {name + SCALE} must be {len(tiles) * TILE} float32 values.")
    stack = config.encoder if name.startswith("encoder.") else config.decoder
    if name.endswith("attn.out.weight"):
        is_latent = stack.kv_rank > 0 and ".self_attn." in name
        d_head = stack.d_value if is_latent else stack.d_head
        n_in = stack.n_heads * -(-d_head // TILE) * TILE  # heads are padded already
    elif name.endswith("ffn.down.weight"):
        n_in = stack.d_ffn
    elif name.endswith("self_attn.q.weight"):
        n_in = stack.q_rank or config.d_model
    elif name.endswith("self_attn.k_up.weight"):
        n_in = stack.d_head
    elif name.endswith("self_attn.v_up.weight"):
        n_in = stack.kv_rank
    else:
        n_in = config.d_model
    weight = tiles.transpose(0, 1, 3, 2).reshape(len(tiles), -1, TILE)[:, :n_in]
    return _aligned(weight * scale.reshape(-1, 1, TILE), np.float32)


def to_bfloat16(tiles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 tiles as bfloat16 bits, rounded to nearest even: the bits that `_core.pack` gives."""
    if tiles.dtype == np.uint16:
        return tiles
    bits = tiles.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return _aligned(np.where(np.isnan(tiles), quiet, rounded), np.uint16)


def to_float32(tiles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """bfloat16 bits as float32 tiles, exactly."""
    if tiles.dtype == np.float32:
        return tiles
    return _aligned((tiles.astype(np.uint32) << 16).view(np.float32), np.float32)


def _aligned(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A copy whose data is 64-byte aligned, as the core asks of tiles."""
    n_bytes = values.size * np.dtype(dtype).itemsize
    block = np.empty(n_bytes + 64, np.uint8)
    start = -block.ctypes.data % 64
    result = block[start : start + n_bytes].view(dtype).reshape(values.shape)
    result[...] = values
    return result
