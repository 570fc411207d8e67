"""The kinds of attention beside one another: quality, cache, speed, on a task of our own making.

    python -m tools.train.compare_attention [--steps 700] [--length 400]

One small model of each kind learns to write a sequence of random tokens backwards; what it makes of
sequences that it has not seen is its quality.  Cache bytes are those of keys and values of one
token in all layers; speed is the engine's, greedy search on one thread, in processor time, the
kinds taking turns.  Fewer heads of keys and values are in self- and in cross-attention; latent
attention is in self-attention alone, cross-attention beside it is multi-head.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from s2s_infer import Model as Engine
from s2s_infer.kv_arithmetic import BYTES
from s2s_infer.loaders import load_checkpoint
from tools.train import export_native
from tools.train import ops as reference
from tools.train.data import pack
from tools.train.export_hf import marian_config, marian_tensors
from tools.train.generate import generate
from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes

KINDS: dict[str, dict[str, Any]] = {
    "MHA": {},
    "GQA, 2 groups": {"n_kv_heads": 2},
    "MQA": {"n_kv_heads": 1},
    "MLA, rank 32": {"kv_rank": 32},
}
N_VOCAB, PAD, EOS = 40, 39, 0
RATE, WARMUP, BATCH = 2e-3, 200, 96


def config_of(kind: str) -> ModelConfig:
    """Two layers of eight heads of 16, and what the kind says."""
    return ModelConfig(
        N_VOCAB, d_model=128, d_ffn=256, n_heads=8, n_encoder_layers=2, n_decoder_layers=2,
        **KINDS[kind],
    )  # fmt: skip


def pairs_of(rng: numpy.random.Generator, n: int) -> tuple[list[list[int]], list[list[int]]]:
    """Sequences of 4 to 24 tokens, and the same backwards; each with its end token."""
    rows = [rng.integers(1, PAD, rng.integers(4, 25)).tolist() for _ in range(n)]
    return [[*row, EOS] for row in rows], [[*row[::-1], EOS] for row in rows]


def train(config: ModelConfig, n_steps: int) -> Model:
    """A model after n_steps of Adam; every kind sees the same sequences."""
    shapes = parameter_shapes(config)
    n = count(shapes)
    weights, gradients, m, v = (numpy.zeros(n, numpy.float32) for _ in range(4))
    parameters = Parameters(shapes, weights, gradients)
    initialize(config, parameters, 1, depth_scaled=False)
    ops = reference.load("auto")
    model, rng = Model(config, parameters, ops), numpy.random.default_rng(2)
    for step in range(1, n_steps + 1):
        batch = pack(*pairs_of(rng, BATCH), PAD)
        gradients[...] = 0
        logits, backward = model.forward(batch, Dropout())
        ops.softmax_xent(logits, batch.target_ids, 0.0, 1 / len(batch.target_ids))
        backward(logits)
        clip = min(1.0, 1 / float(numpy.sqrt(ops.sum_squares(gradients))))
        rate = RATE * min(step / WARMUP, 1 - max(0, step - WARMUP) / (n_steps - WARMUP + 1))
        ops.adam(weights, gradients, m, v, rate, 0.9, 0.98, 1e-9, 0.0, step, clip)
    return model


def quality(model: Model, n: int = 1000) -> tuple[float, float]:
    """On n new sequences: mean loss per token, and the share that is written without an error."""
    sources, targets = pairs_of(numpy.random.default_rng(3), n)
    batch = pack(sources, targets, PAD)
    logits, _ = model.forward(batch)
    loss = model.ops.softmax_xent(logits, batch.target_ids, 0.0, 1.0)[1] / len(batch.target_ids)
    written = generate(model, sources, PAD)
    right = sum([*row, EOS] == target for row, target in zip(written, targets, strict=True))
    return float(loss), right / n


def engine_of(model: Model) -> Engine:
    """The engine on the model, its attention as it was trained."""
    config, buffer = model.config, model.parameters.buffer
    with tempfile.TemporaryDirectory() as folder:
        save_file(marian_tensors(config, buffer), Path(folder) / "model.safetensors")
        settings = json.dumps(marian_config(config, PAD))
        (Path(folder) / "config.json").write_text(settings, encoding="utf-8")
        checkpoint = export_native.with_own_attention(load_checkpoint(folder), config, buffer)
        return Engine(checkpoint, threads=1)


def speeds(engines: list[Engine], length: int, rounds: int = 5) -> list[float]:
    """Tokens per second of each engine: 16 outputs of `length` tokens at once."""
    rng = numpy.random.default_rng(4)
    sources = [rng.integers(1, PAD, length).tolist() for _ in range(16)]
    options: dict[str, Any] = {"max_new_tokens": length, "min_new_tokens": length}
    best = [float("inf")] * len(engines)
    for _ in range(rounds):
        for i, engine in enumerate(engines):
            start = time.process_time()
            engine.generate_ids(sources, **options)
            best[i] = min(best[i], time.process_time() - start)
    return [len(sources) * length / seconds for seconds in best]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=700, help="training steps (default: 700)")
    parser.add_argument("--length", type=int, default=400, help="tokens decoded (default: 400)")
    args = parser.parse_args()
    models = {kind: train(config_of(kind), args.steps) for kind in KINDS}
    measured = speeds([engine_of(model) for model in models.values()], args.length)
    print("| attention | parameters | loss | without error | cache bytes a token | tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for (kind, model), speed in zip(models.items(), measured, strict=True):
        config = model.config
        loss, right = quality(model)
        d_head = config.d_model // config.n_heads
        numbers = config.kv_rank or 2 * (config.n_kv_heads or config.n_heads) * d_head
        n_bytes = config.n_decoder_layers * numbers * BYTES["float32"]
        print(
            f"| {kind} | {model.parameters.buffer.size:,} | {loss:.4f} | {right:.1%} | {n_bytes:,} "
            f"| {speed:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
