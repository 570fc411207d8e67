"""The position-wise feed-forward sub-layer: two linear layers and an activation between them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from tools.train.layers.dropout import Dropout
from tools.train.layers.linear import Linear
from tools.train.layers.parameter import Parameters
from tools.train.ops import Array


class FeedForward:
    """``fc2(dropout(activation(fc1(x))))`` of every row alone."""

    def __init__(
        self, ops: SimpleNamespace, parameters: Parameters, name: str, activation: str
    ) -> None:
        self.ops, self.activation = ops, activation
        self.fc1 = Linear(ops, parameters, f"{name}.fc1")
        self.fc2 = Linear(ops, parameters, f"{name}.fc2")

    def __call__(self, x: Array, dropout: Dropout) -> tuple[Array, Callable[[Array], Array]]:
        """``x[N, d]`` to ``y[N, d]``."""
        ops, kind, p, seed = self.ops, self.activation, dropout.activation, dropout.next_seed()
        inner, fc1_backward = self.fc1(x)
        y, fc2_backward = self.fc2(ops.activation_dropout(inner, kind, p, seed))

        def backward(dy: Array) -> Array:
            return fc1_backward(
                ops.activation_dropout_backward(fc2_backward(dy), inner, kind, p, seed)
            )

        return y, backward
