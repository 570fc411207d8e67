"""Attention on packed sequences: multi-head, grouped-query, multi-query, multi-head latent.

They differ in what a decoder has to keep of each position (its KV cache):

- multi-head (MHA; Vaswani et al., 2017): keys and values for each head;
- grouped-query (GQA; Ainslie et al., 2023): for each group of heads; with one group, multi-query
  (MQA; Shazeer, 2019);
- multi-head latent (MLA; DeepSeek-AI, "DeepSeek-V2", 2024): one vector of `kv_rank` numbers, from
  which the keys and values of all heads are made anew.  Positions are in the embeddings here, so
  there is no separate rotary key; and the latent has no norm.

After keys and values are there for each head, all are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from tools.train import ops as reference
from tools.train.layers.dropout import Dropout
from tools.train.layers.linear import Linear
from tools.train.layers.parameter import Parameters
from tools.train.ops import Array


class Attention:
    """Queries from one stream, keys and values from another (or the same: self-attention)."""

    def __init__(
        self,
        ops: SimpleNamespace,
        parameters: Parameters,
        name: str,
        n_heads: int,
        causal: bool,
        n_kv_heads: int = 0,
        kv_rank: int = 0,
    ) -> None:
        """n_kv_heads: heads of keys and values; 0: n_heads.  kv_rank: of a latent vector that keys
        and values are made of; 0: they are made of the input."""
        self.ops, self.n_heads, self.causal = ops, n_heads, causal
        self.n_kv_heads = n_kv_heads or n_heads
        self.q_proj = Linear(ops, parameters, f"{name}.q_proj")
        self.kv_down_proj = Linear(ops, parameters, f"{name}.kv_down_proj") if kv_rank else None
        self.k_proj = Linear(ops, parameters, f"{name}.k_proj")
        self.v_proj = Linear(ops, parameters, f"{name}.v_proj")
        self.out_proj = Linear(ops, parameters, f"{name}.out_proj")

    def keys_and_values(
        self, memory: Array
    ) -> tuple[Array, Array, Callable[[Array, Array], Array]]:
        """``memory[N, d]`` to keys and values ``[N, H*dh]``, those of a group repeated.

        ``backward`` returns the gradient of ``memory``.
        """
        latent_backward = None
        if self.kv_down_proj is not None:
            memory, latent_backward = self.kv_down_proj(memory)
        k, k_backward = self.k_proj(memory)
        v, v_backward = self.v_proj(memory)

        def backward(dk: Array, dv: Array) -> Array:
            dmemory = k_backward(self._summed(dk))
            dmemory += v_backward(self._summed(dv))
            return dmemory if latent_backward is None else latent_backward(dmemory)

        return self._repeated(k), self._repeated(v), backward

    def _repeated(self, x: Array) -> Array:
        """``[N, G*dh]`` to ``[N, H*dh]``: the heads of a group have the same."""
        if self.n_kv_heads == self.n_heads:
            return x
        grouped = x.reshape(len(x), self.n_kv_heads, 1, -1)
        repeated = reference.xp.repeat(grouped, self.n_heads // self.n_kv_heads, axis=2)
        return repeated.reshape(len(x), -1)

    def _summed(self, dx: Array) -> Array:
        """The gradient of `_repeated`: ``[N, H*dh]`` to ``[N, G*dh]``."""
        if self.n_kv_heads == self.n_heads:
            return dx
        n = self.n_heads // self.n_kv_heads
        grouped = dx.reshape(len(dx), self.n_kv_heads, n, -1)
        return reference.xp.ascontiguousarray(grouped.sum(axis=2).reshape(len(dx), -1))

    def __call__(
        self, x: Array, x_offsets: Array, memory: Array, memory_offsets: Array, dropout: Dropout
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """``x[Nq, d]`` attends to ``memory[Nk, d]``; the result is ``[Nq, d]``.

        ``backward`` returns the gradients of ``x`` and of ``memory`` (to be added for
        self-attention).
        """
        ops, p, seed = self.ops, dropout.attention, dropout.next_seed()
        q, q_backward = self.q_proj(x)
        k, v, kv_backward = self.keys_and_values(memory)
        context, probs = ops.attention(
            q, k, v, x_offsets, memory_offsets, self.n_heads, self.causal, p, seed
        )
        y, out_backward = self.out_proj(context)

        def backward(dy: Array) -> tuple[Array, Array]:
            dq, dk, dv = ops.attention_backward(
                out_backward(dy), q, k, v, probs,
                x_offsets, memory_offsets, self.n_heads, self.causal, p, seed,
            )  # fmt: skip
            return q_backward(dq), kv_backward(dk, dv)

        return y, backward
