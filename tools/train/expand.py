"""Weights of any kind of attention as those of multi-head attention that computes the same.

What a group of heads shares is repeated for each head; a latent's two steps, input to latent to
keys, become one product.  So a checkpoint class that knows multi-head attention alone can hold the
model, at the price of the larger cache.
"""

from __future__ import annotations

from dataclasses import replace

import numpy

from tools.train import ops as reference
from tools.train.layers.parameter import Parameters, count
from tools.train.model import ModelConfig, parameter_shapes


def as_multi_head(config: ModelConfig, buffer: numpy.ndarray) -> tuple[ModelConfig, numpy.ndarray]:
    """The config and flat weights of the equal multi-head model; as they are if it is one."""
    if config.attention == "mha":
        return config, buffer
    target = replace(config, n_kv_heads=0, kv_rank=0)
    shapes = parameter_shapes(target)
    expanded = reference.xp.empty(count(shapes), buffer.dtype)
    given = Parameters(parameter_shapes(config), buffer)
    for name, parameter in Parameters(shapes, expanded).items():
        module, kind = name.rsplit(".", 1) if "." in name else (name, "")
        if module.endswith((".k_proj", ".v_proj")) and name.startswith("decoder."):
            weight, bias = _expanded(config, given, module)
            parameter.value[...] = weight if kind == "weight" else bias
        else:
            parameter.value[...] = given[name].value
    return target, expanded


def _expanded(
    config: ModelConfig, given: Parameters, module: str
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """weight ``[d, H*dh]`` and bias ``[H*dh]`` of keys or values."""
    weight, bias = given[f"{module}.weight"].value, given[f"{module}.bias"].value
    if config.kv_rank and module.rpartition(".")[0].endswith(".self_attn"):
        down = f"{module.rpartition('.')[0]}.kv_down_proj"
        bias = bias + given[f"{down}.bias"].value @ weight
        weight = given[f"{down}.weight"].value @ weight
    n_groups = config.n_kv_heads or config.n_heads
    n = config.n_heads // n_groups
    grouped = weight.reshape(len(weight), n_groups, 1, -1).repeat(n, axis=2)
    return grouped.reshape(len(weight), -1), bias.reshape(n_groups, 1, -1).repeat(n, axis=1).ravel()
