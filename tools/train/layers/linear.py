"""A linear layer: y = x W + b."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from tools.train.layers.parameter import Parameter, Parameters
from tools.train.ops import Array


class Linear:
    """``weight[K, M]`` is stored input-major, the transpose of torch's."""

    def __init__(self, ops: SimpleNamespace, parameters: Parameters, name: str) -> None:
        self.ops = ops
        self.weight: Parameter = parameters[f"{name}.weight"]
        self.bias: Parameter = parameters[f"{name}.bias"]

    def __call__(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """``x[N, K]`` to ``y[N, M]``."""
        y = self.ops.linear(x, self.weight.value, self.bias.value)

        def backward(dy: Array) -> Array:
            out = (self.weight.grad, self.bias.grad)
            return self.ops.linear_backward(dy, x, self.weight.value, out=out)[0]

        return y, backward
