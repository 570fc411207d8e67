"""Multi-head attention on packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from tools.train.layers.dropout import Dropout
from tools.train.layers.linear import Linear
from tools.train.layers.parameter import Parameters
from tools.train.ops import Array


class MultiHeadAttention:
    """Queries from one stream, keys and values from another (or the same: self-attention)."""

    def __init__(
        self, ops: SimpleNamespace, parameters: Parameters, name: str, n_heads: int, causal: bool
    ) -> None:
        self.ops, self.n_heads, self.causal = ops, n_heads, causal
        self.q_proj = Linear(ops, parameters, f"{name}.q_proj")
        self.k_proj = Linear(ops, parameters, f"{name}.k_proj")
        self.v_proj = Linear(ops, parameters, f"{name}.v_proj")
        self.out_proj = Linear(ops, parameters, f"{name}.out_proj")

    def __call__(
        self, x: Array, x_offsets: Array, memory: Array, memory_offsets: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """``x[Nq, d]`` attends to ``memory[Nk, d]``; the result is ``[Nq, d]``.

        ``backward`` returns the gradients of ``x`` and of ``memory`` (to be added for
        self-attention).
        """
        ops, p, seed = self.ops, dropout.attention, dropout.next_seed()
        q, q_backward = self.q_proj(x)
        k, k_backward = self.k_proj(memory)
        v, v_backward = self.v_proj(memory)
        context, probs = ops.attention(
            q, k, v, x_offsets, memory_offsets, self.n_heads, self.causal, p, seed
        )
        y, out_backward = self.out_proj(context)

        def backward(dy: Array) -> tuple[Array, Array]:
            dq, dk, dv = ops.attention_backward(
                out_backward(dy), q, k, v, probs,
                x_offsets, memory_offsets, self.n_heads, self.causal, p, seed,
            )  # fmt: skip
            dmemory = k_backward(dk)
            dmemory += v_backward(dv)
            return q_backward(dq), dmemory

        return y, backward
