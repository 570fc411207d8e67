"""Token embedding plus sinusoidal position, and the output projection that shares its table."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy

from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameter
from tools.train.ops import Array


def sinusoidal_positions(n_positions: int, d_model: int) -> numpy.ndarray:
    """Marian's table ``[n_positions, d_model]``: sines in the first half, cosines in the second."""
    position = numpy.arange(n_positions, dtype=numpy.float64)[:, None]
    column = numpy.arange(d_model)
    angle = position / 10000.0 ** (2 * (column // 2) / d_model)
    return numpy.concatenate([numpy.sin(angle[:, 0::2]), numpy.cos(angle[:, 1::2])], axis=1)


class Embedding:
    """``table[ids] * scale + position``; ``scale`` is sqrt(d_model) or 1."""

    def __init__(
        self, ops: SimpleNamespace, table: Parameter, positions: Array, scaled: bool
    ) -> None:
        self.ops, self.table, self.positions = ops, table, positions
        self.scale = math.sqrt(table.value.shape[1]) if scaled else 1.0

    def __call__(
        self, ids: Array, positions: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], None]]:
        """``ids[N]`` at ``positions[N]`` of their sequences to ``[N, d]``."""
        ops, p, seed = self.ops, dropout.residual, dropout.next_seed()
        y = ops.embedding(self.table.value, ids, self.positions, positions, self.scale, p, seed)

        def backward(dy: Array) -> None:
            n_vocab = self.table.value.shape[0]
            ops.embedding_backward(dy, ids, n_vocab, self.scale, p, seed, self.table.grad)

        return y, backward


class OutputProjection:
    """``logits = x E^T + bias`` with the embedding table ``E[V, d]``."""

    def __init__(self, ops: SimpleNamespace, table: Parameter, bias: Parameter) -> None:
        self.ops, self.table, self.bias = ops, table, bias

    def __call__(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """``x[N, d]`` to ``logits[N, V]``."""
        weight = self.table.value.T  # a view: both kinds of operations take it as it is
        logits = self.ops.linear(x, weight, self.bias.value)

        def backward(dlogits: Array) -> Array:
            out = (self.table.grad.T, self.bias.grad)
            return self.ops.linear_backward(dlogits, x, weight, out=out)[0]

        return logits, backward
