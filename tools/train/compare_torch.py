"""Tokens per second beside torch: the same model, the same batches, in one interleaved run.

    python -m tools.train.compare_torch [--workers 2] [--ops native] [--d-model 256] ...

Both train transformers' MarianMTModel in the same configuration with Adam, dropout and label
smoothing, on random sentences of 4 to 24 tokens, with as many threads as the trainer has workers. A
step is everything: forward, backward, clipping, optimizer. The two take turns, so that a change of
the machine's speed hits both; the median step counts. torch computes in float32; so does ours with
``--products float32``. The native operations round matrix products' operands to bfloat16 where the
CPU has units for it (``--products bfloat16``, what training uses); then torch runs a second time
under bfloat16 autocast.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # ours: one per process; torch is told its number below

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy

from tools.train import ops as reference
from tools.train.data import pack
from tools.train.export_hf import marian_config, marian_tensors
from tools.train.layers.dropout import Dropout, mix
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes
from tools.train.parallel import Team, available_cores, keep_freed_memory, run_team, shared_array

Pairs = tuple[list[list[int]], list[list[int]]]
RATES = {"dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1}
SMOOTHING = 0.1


def random_pairs(config: ModelConfig, n_tokens: int, seed: int) -> Pairs:
    """Sentences of similar length, as a bucketed batch has them, of about ``n_tokens`` targets."""
    rng = numpy.random.default_rng(seed)
    middle = int(rng.integers(6, 22))

    def sentence() -> list[int]:
        n = middle + int(rng.integers(-2, 3))
        return [*rng.integers(2, config.n_vocab - 3, n).tolist(), 0]

    n = n_tokens // middle
    return [sentence() for _ in range(n)], [sentence() for _ in range(n)]


class OurTrainer:
    """One member's side of the trainer's step, over shared vectors."""

    def __init__(self, config: ModelConfig, n_workers: int, ops: str) -> None:
        self.config, self.shapes = config, parameter_shapes(config)
        self.n = count(self.shapes)
        self.ops = reference.load(ops)
        self.weights, self.m, self.v = (shared_array((self.n,)) for _ in range(3))
        self.grads = [shared_array((self.n,)) for _ in range(n_workers)]
        self.sums = shared_array((n_workers, 2), numpy.float64)
        initialize(config, Parameters(self.shapes, self.weights), 1, depth_scaled=True)

    def step(self, team: Team, model: Model, pairs: Pairs, number: int) -> float:
        """One whole step of this member; returns the loss per token."""
        sources, targets = (side[team.rank :: team.n_workers] for side in pairs)
        n_tokens = sum(map(len, pairs[1]))
        self.grads[team.rank][...] = 0
        batch = pack(sources, targets, self.config.n_vocab - 1)
        rates = Dropout(0.3, 0.1, 0.1, seed=mix(number, team.rank))
        logits, backward = model.forward(batch, rates)
        loss, _ = self.ops.softmax_xent(logits, batch.target_ids, SMOOTHING, 1 / n_tokens)
        backward(logits)
        team.wait()
        own = team.share(self.n)
        for other in self.grads[1:]:
            self.grads[0][own] += other[own]
        self.sums[team.rank] = loss, self.ops.sum_squares(self.grads[0][own])
        team.wait()
        total, squares = self.sums.sum(axis=0)
        clip = min(1.0, 1 / float(numpy.sqrt(squares)))
        self.ops.adam(
            self.weights[own], self.grads[0][own], self.m[own], self.v[own],
            1e-4, 0.9, 0.98, 1e-9, 0.0, number, clip,
        )  # fmt: skip
        team.wait()
        return float(total) / n_tokens


def torch_step(
    config: ModelConfig, buffer: numpy.ndarray, n_threads: int
) -> Callable[[Pairs, bool], float]:
    """A function that trains one batch in torch and returns the loss per token."""
    import torch
    import transformers

    torch.set_num_threads(n_threads)
    pad = config.n_vocab - 1
    model = transformers.MarianMTModel(
        transformers.MarianConfig(**marian_config(config, pad) | RATES)
    )
    tensors = marian_tensors(config, buffer)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    model.tie_weights()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9)

    def padded(rows: list[list[int]]) -> Any:
        width = max(map(len, rows))
        return torch.tensor([row + [pad] * (width - len(row)) for row in rows])

    def step(pairs: Pairs, bfloat16: bool) -> float:
        sources, targets = padded(pairs[0]), padded(pairs[1])
        decoder_ids = torch.cat([torch.full((len(targets), 1), pad), targets[:, :-1]], dim=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(
                input_ids=sources, attention_mask=sources != pad, decoder_input_ids=decoder_ids
            ).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), targets.flatten(),
                ignore_index=pad, label_smoothing=SMOOTHING,
            )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def compare(config: ModelConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Run ``args.steps`` interleaved steps; tokens per second of each side."""
    ours = OurTrainer(config, args.workers, args.ops)
    if ours.ops.kind == "native":
        from tools.train import native

        products = native.set_products(args.products)
    else:
        products = "numpy_float32"
    batches = [random_pairs(config, args.batch_tokens, i) for i in range(args.steps + 2)]
    start = ours.weights.copy()
    kinds = ["ours", "torch_float32"] + ["torch_bfloat16"] * (args.products == "bfloat16")

    def torch_process(pipe: Any) -> None:
        """torch lives in a process of its own: it must never be forked after its threads run."""
        steps = {kind: torch_step(config, start, args.workers) for kind in kinds if kind != "ours"}
        while (message := pipe.recv()) is not None:
            kind, pairs = message
            began = time.perf_counter()
            loss = steps[kind](pairs, kind == "torch_bfloat16")
            pipe.send((time.perf_counter() - began, loss))

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=torch_process, args=(there,), daemon=True)
    process.start()

    def work(team: Team) -> dict[str, Any]:
        keep_freed_memory()
        named = Parameters(ours.shapes, ours.weights, ours.grads[team.rank])
        model = Model(config, named, ours.ops)
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        losses: dict[str, float] = {}
        for number, pairs in enumerate(batches, 1):
            n_tokens = sum(map(len, pairs[1]))
            for kind in kinds:
                team.wait()
                if kind == "ours":
                    began = time.perf_counter()
                    loss = ours.step(team, model, pairs, number)
                    seconds = time.perf_counter() - began
                elif team.rank == 0:
                    here.send((kind, pairs))
                    seconds, loss = here.recv()
                team.wait()
                if team.rank == 0 and number > 2:  # the first two warm up
                    rates[kind].append(n_tokens / seconds)
                    losses[kind] = loss
        return {
            "tokens_per_s": {kind: round(statistics.median(r)) for kind, r in rates.items() if r},
            "last_loss": losses,
        }

    result: dict[str, Any] = run_team(args.workers, work)
    here.send(None)
    process.join()
    speed = result["tokens_per_s"]
    result["ours_over_torch_float32"] = round(speed["ours"] / speed["torch_float32"], 2)
    return result | {
        "ops": ours.ops.kind,
        "products": products,
        "workers_and_threads": args.workers,
        "batch_tokens": args.batch_tokens,
        "model": config.to_dict(),
    }


def main() -> None:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--workers", type=int, default=available_cores(), help="our processes, torch's threads")
    add("--ops", choices=("auto", "native", "numpy"), default="auto", help="our operations")
    add("--products", choices=("bfloat16", "float32"), default="bfloat16", help="matrix products")
    add("--steps", type=int, default=10, help="steps that count (default: %(default)s)")
    add("--batch-tokens", type=int, default=4096, help="target tokens a step")
    add("--vocab-size", type=int, default=6003)
    for name, value in (("d-model", 256), ("d-ffn", 1024), ("n-heads", 4)):
        add(f"--{name}", type=int, default=value)
    add("--n-encoder-layers", type=int, default=6)
    add("--n-decoder-layers", type=int, default=2)
    args = parser.parse_args()
    config = ModelConfig(
        args.vocab_size, args.d_model, args.d_ffn, args.n_heads,
        args.n_encoder_layers, args.n_decoder_layers,
    )  # fmt: skip
    print(json.dumps(compare(config, args), indent=2))


if __name__ == "__main__":
    main()
