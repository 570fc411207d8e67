"""Checkpoints: safetensors files, written beside their place and renamed (never half a file).

A *weights* file holds the named weights (of the average, when training with one) and the model's
config in its metadata. The *state* file holds all that is needed to go on: flat vectors and
counters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

from tools.train.layers.parameter import Parameters, count
from tools.train.model import ModelConfig, parameter_shapes


def _save(tensors: Mapping[str, numpy.ndarray], metadata: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    text = {key: json.dumps(value) for key, value in metadata.items()}
    save_file({k: numpy.ascontiguousarray(v) for k, v in tensors.items()}, temporary, text)
    os.replace(temporary, path)


def _load(path: Path) -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    with safe_open(path, framework="numpy") as file:
        metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def save_weights(
    path: Path, config: ModelConfig, buffer: numpy.ndarray, notes: Mapping[str, Any]
) -> None:
    """Write the weights in ``buffer``; ``notes`` (step, score) go into the metadata."""
    named = Parameters(parameter_shapes(config), buffer)
    tensors = {name: parameter.value for name, parameter in named.items()}
    _save(tensors, {"config": config.to_dict(), **notes}, path)


def load_weights(path: Path) -> tuple[ModelConfig, numpy.ndarray]:
    """The config and the flat float32 buffer of a weights file."""
    tensors, metadata = _load(path)
    if "config" not in metadata:
        raise ValueError(f"{path} is no weights file of this trainer: no config in its metadata")
    config = ModelConfig(**metadata["config"])
    shapes = parameter_shapes(config)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != shapes:
        wrong = sorted(n for n in {*found, *shapes} if found.get(n) != shapes.get(n))
        raise ValueError(f"{path}: shapes do not fit the config, for one {wrong[0]}")
    buffer = numpy.empty(count(shapes), numpy.float32)
    for name, parameter in Parameters(shapes, buffer).items():
        parameter.value[...] = tensors[name]
    return config, buffer


def average_weights(paths: Sequence[Path], out: Path) -> None:
    """Write the mean of several weights files of one config."""
    if not paths:
        raise ValueError("nothing to average: no weights file given")
    config, first = load_weights(paths[0])
    total = first.astype(numpy.float64)
    for path in paths[1:]:
        other, buffer = load_weights(path)
        if other != config:
            raise ValueError(f"{path} and {paths[0]} are of different configs")
        total += buffer
    mean = (total / len(paths)).astype(numpy.float32)
    save_weights(out, config, mean, {"average_of": [path.name for path in paths]})


def save_state(
    path: Path, vectors: Mapping[str, numpy.ndarray], counters: Mapping[str, Any]
) -> None:
    """Write everything that ``load_state`` needs to go on training."""
    _save(vectors, {"counters": counters}, path)


def load_state(path: Path, vectors: Mapping[str, numpy.ndarray]) -> dict[str, Any]:
    """Fill ``vectors`` in place from a state file and return its counters."""
    tensors, metadata = _load(path)
    for name, vector in vectors.items():
        if name not in tensors or tensors[name].shape != vector.shape:
            found = tensors[name].shape if name in tensors else "nothing"
            raise ValueError(f"{path}: {name} should be {vector.shape}, found {found}")
        vector[...] = tensors[name]
    counters: dict[str, Any] = metadata["counters"]
    return counters
