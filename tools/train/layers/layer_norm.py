"""Post-norm residual connection: y = LayerNorm(x + dropout(sub-layer's output))."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameter, Parameters
from tools.train.ops import Array

EPS = 1e-5


class LayerNorm:
    """Zero mean and unit variance per row, then a learned scale and shift."""

    def __init__(self, ops: SimpleNamespace, parameters: Parameters, name: str) -> None:
        self.ops = ops
        self.weight: Parameter = parameters[f"{name}.weight"]
        self.bias: Parameter = parameters[f"{name}.bias"]

    def __call__(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """``x[N, d]`` to ``y[N, d]``."""
        y, mean, rstd = self.ops.layer_norm(x, self.weight.value, self.bias.value, EPS)

        def backward(dy: Array) -> Array:
            dx, dgamma, dbeta = self.ops.layer_norm_backward(dy, x, mean, rstd, self.weight.value)
            self.weight.grad += dgamma
            self.bias.grad += dbeta
            return dx

        return y, backward


class AddAndNorm:
    """What stands around every sub-layer: ``LayerNorm(residual + dropout(x))``."""

    def __init__(self, ops: SimpleNamespace, parameters: Parameters, name: str) -> None:
        self.ops = ops
        self.norm = LayerNorm(ops, parameters, name)

    def __call__(
        self, x: Array, residual: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """Both ``[N, d]``; ``backward`` returns the gradients of ``x`` and of ``residual``."""
        p, seed = dropout.residual, dropout.next_seed()
        y, norm_backward = self.norm(self.ops.dropout_add(x, residual, p, seed))

        def backward(dy: Array) -> tuple[Array, Array]:
            dsum = norm_backward(dy)
            return self.ops.dropout_backward(dsum, p, seed), dsum

        return y, backward
