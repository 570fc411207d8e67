"""Write a native model file (*.s2s) with the decoder's attention as it was trained.

A Hugging Face directory holds multi-head attention only; the native file keeps the fewer heads of
keys and values of grouped-query and multi-query attention, and so does the engine's cache.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy

from s2s_infer.formats.native import save_native
from s2s_infer.loaders import Checkpoint, load_checkpoint
from s2s_infer.loaders.packing import Linear, Packer
from tools.train import export_hf
from tools.train.checkpoint import load_weights
from tools.train.layers.parameter import Parameters
from tools.train.model import ModelConfig, parameter_shapes


def export(weights: Path, vocab: Path, out: Path, dtype: str = "float32") -> None:
    """Write the model of ``weights`` with the vocabulary ``vocab`` to the file ``out``.

    dtype: "float32", "bfloat16" or "int8".  Raises ValueError for latent attention, which the
    engine's description of a model does not have.
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
    if config.kv_rank:
        raise ValueError(
            f"the model has latent attention (kv_rank {config.kv_rank}), which a native file "
            "cannot hold; a Hugging Face directory holds the multi-head attention that it equals"
        )
    n_kv_heads = config.n_kv_heads or config.n_heads
    decoder = replace(checkpoint.config.decoder, n_kv_heads=n_kv_heads)
    parameters = Parameters(parameter_shapes(config), buffer)

    def linear(name: str) -> Linear:
        weight, bias = (parameters[f"{name}.{kind}"].value for kind in ("weight", "bias"))
        return Linear(numpy.ascontiguousarray(weight.T), bias)

    packer = Packer(checkpoint.dtype)
    for i in range(decoder.n_layers):
        for ours, theirs, pack in (
            ("self_attn", "self_attn", packer.self_attention),
            ("cross_attn", "encoder_attn", packer.cross_attention),
        ):
            parts = ("q_proj", "k_proj", "v_proj", "out_proj")
            linears = [linear(f"decoder.layers.{i}.{theirs}.{part}") for part in parts]
            pack(f"decoder.{i}.{ours}", decoder, *linears)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, decoder=decoder),
        tensors={**checkpoint.tensors, **packer.tensors},
    )
