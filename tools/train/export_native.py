"""Write a native model file (*.s2s) with the decoder's attention as it was trained.

A Hugging Face directory holds multi-head attention only; the native file keeps the fewer heads of
keys and values of grouped-query and multi-query attention, and the latent of latent attention; and
so does the engine's cache.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy

from s2s_infer.config import StackConfig
from s2s_infer.formats.native import save_native
from s2s_infer.loaders import Checkpoint, load_checkpoint
from s2s_infer.loaders.packing import Linear, Packer
from tools.train import export_hf
from tools.train.checkpoint import load_weights
from tools.train.layers.parameter import Parameters
from tools.train.model import ModelConfig, parameter_shapes


def export(weights: Path, vocab: Path, out: Path, dtype: str = "float32") -> None:
    """Write the model of ``weights`` with the vocabulary ``vocab`` to the file ``out``.

    dtype: "float32", "bfloat16" or "int8".
    """
    config, buffer = load_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        export_hf.export(weights, vocab, Path(folder))
        checkpoint = load_checkpoint(folder, dtype)
    save_native(with_own_attention(checkpoint, config, buffer), out)


def with_own_attention(
    checkpoint: Checkpoint, config: ModelConfig, buffer: numpy.ndarray
) -> Checkpoint:
    """The checkpoint of the equal multi-head model, its decoder's attention as it was trained."""
    decoder = replace(
        checkpoint.config.decoder,
        n_kv_heads=config.n_kv_heads or config.n_heads,
        kv_rank=config.kv_rank,
        kv_norm=False,
        d_value=config.d_model // config.n_heads if config.kv_rank else 0,
    )
    parameters = Parameters(parameter_shapes(config), buffer)

    def linear(name: str) -> Linear:
        weight, bias = (parameters[f"{name}.{kind}"].value for kind in ("weight", "bias"))
        return Linear(numpy.ascontiguousarray(weight.T), bias)

    parts = ("q_proj", "k_proj", "v_proj", "out_proj")
    packer = Packer(checkpoint.dtype)
    for i in range(decoder.n_layers):
        layer = f"decoder.layers.{i}"
        q, k, v, out = (linear(f"{layer}.self_attn.{part}") for part in parts)
        name = f"decoder.{i}.self_attn"
        if config.kv_rank:
            down = linear(f"{layer}.self_attn.kv_down_proj")
            _pack_latent(packer, name, decoder, q, down, k, v, out)
        else:
            packer.self_attention(name, decoder, q, k, v, out)
        cross = (linear(f"{layer}.encoder_attn.{part}") for part in parts)
        packer.cross_attention(f"decoder.{i}.cross_attn", decoder, *cross)
    kept = {
        name: array
        for name, array in checkpoint.tensors.items()
        if not (name.startswith("decoder.") and ".self_attn.qkv." in name)
    }
    return replace(
        checkpoint,
        config=replace(checkpoint.config, decoder=decoder),
        tensors={**kept, **packer.tensors},
    )


def _pack_latent(
    packer: Packer,
    name: str,
    decoder: StackConfig,
    q: Linear,
    down: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
) -> None:
    """The engine's latent attention has no biases after the latent, and needs none: the bias of
    keys adds the same to all scores of a query, that of values a constant to the context."""
    assert v.bias is not None and out.bias is not None
    up = numpy.stack(
        [part.weight.reshape(decoder.n_heads, -1, decoder.kv_rank) for part in (k, v)], axis=1
    )
    bias = out.bias + out.weight @ v.bias
    packer.latent_attention(
        name, decoder, None, q, down, up.reshape(-1, decoder.kv_rank), Linear(out.weight, bias)
    )
