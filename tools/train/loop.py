"""The training loop: gradients in parallel, one shared update, validation, checkpoints, log."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

from tools.train import ops as reference
from tools.train.checkpoint import load_state, load_weights, save_state, save_weights
from tools.train.config import TrainConfig
from tools.train.data import Corpus, Epoch, Pair, Subwords, both_directions, read_tsv
from tools.train.layers.dropout import Dropout, mix
from tools.train.layers.parameter import Parameters, count
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes
from tools.train.parallel import Team, available_cores, keep_freed_memory, run_team, shared_array
from tools.train.schedule import learning_rate
from tools.train.validate import Validation, to_numpy
from tools.train.vocabulary import Vocabulary

STATE = "state.safetensors"
BEST = "best.safetensors"
LOG = "log.jsonl"
CONFIG = "train_config.json"


class Trainer:
    """One run. Everything here is made before the workers fork; vectors are in shared memory."""

    def __init__(self, config: TrainConfig, resume: bool = False) -> None:
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.vocabulary = Vocabulary(Path(config.vocab))
        self.model_config = ModelConfig(
            n_vocab=len(self.vocabulary),
            d_model=config.d_model,
            d_ffn=config.d_ffn,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            kv_rank=config.kv_rank,
            n_encoder_layers=config.n_encoder_layers,
            n_decoder_layers=config.n_decoder_layers,
            activation=config.activation,
        )
        self.ops = reference.load(config.ops)
        subwords = Subwords(config.subword_alpha, config.subword_source, config.subword_target)
        self.corpus = Corpus(self._training_pairs(), self.vocabulary, config.max_length, subwords)
        self.validation = Validation.of(
            both_directions(read_tsv(Path(config.data) / "valid.tsv")), self.vocabulary
        )
        on_cpu = reference.xp is numpy
        self.n_workers = (config.workers or available_cores()) if on_cpu else 1
        self.shapes = parameter_shapes(self.model_config)
        self.n = count(self.shapes)
        self.n_decayed = sum(math.prod(s) for s in self.shapes.values() if len(s) == 2)
        zeros = shared_array if on_cpu else reference.xp.zeros
        self.weights, self.adam_m, self.adam_v = (zeros((self.n,)) for _ in range(3))
        self.average = zeros((self.n,)) if config.ema_decay else self.weights
        self.grads = [zeros((self.n,)) for _ in range(self.n_workers)]
        self.sums = shared_array((self.n_workers, 4), numpy.float64)
        self.stop = shared_array((1,), numpy.int64)
        self.counters: dict[str, Any] = {
            "epoch": 0, "batch": 0, "step": 0, "best": -math.inf, "stale": 0,
        }  # fmt: skip
        self._start(resume)

    def _training_pairs(self) -> list[Pair]:
        config = self.config
        pairs = both_directions(read_tsv(Path(config.data) / "train.tsv"))
        for path, to in ((config.extra_zh_en, "en"), (config.extra_en_zh, "zh")):
            if path:
                extra = both_directions(read_tsv(Path(path)))
                pairs += [pair for pair in extra if pair.to == to]
        return pairs

    def _start(self, resume: bool) -> None:
        if resume:
            on_disk = {name: to_numpy(vector) for name, vector in self._vectors().items()}
            self.counters = load_state(self.out / STATE, on_disk)
            for name, vector in self._vectors().items():
                vector[...] = reference.xp.asarray(on_disk[name])
            self._truncate_log()
            self.config.save(self.out / CONFIG)
            return
        if (self.out / STATE).exists():
            raise FileExistsError(f"{self.out} holds a run already: --resume it, or choose another")
        if self.config.init_from:
            found, buffer = load_weights(Path(self.config.init_from))
            if found != self.model_config:
                raise ValueError(f"{self.config.init_from} is of another config: {found}")
            self.weights[...] = reference.xp.asarray(buffer)
        else:
            named = Parameters(self.shapes, self.weights)
            initialize(self.model_config, named, self.config.seed, self.config.depth_scaled_init)
        self.average[...] = self.weights
        self.config.save(self.out / CONFIG)
        (self.out / LOG).write_text("", encoding="utf-8")

    def _vectors(self) -> dict[str, reference.Array]:
        return {
            "weights": self.weights,
            "average": self.average,
            "adam_m": self.adam_m,
            "adam_v": self.adam_v,
        }

    def _truncate_log(self) -> None:
        path = self.out / LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.counters["step"]]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the counters, with the best score."""
        result: dict[str, Any] = run_team(self.n_workers, self._work)
        return result

    # ------------------------------------------------------------- below: every member runs this

    def _work(self, team: Team) -> dict[str, Any]:
        keep_freed_memory()
        config, counters = self.config, self.counters
        named = Parameters(self.shapes, self.weights, self.grads[team.rank])
        model = Model(self.model_config, named, self.ops)
        averaged = Model(self.model_config, Parameters(self.shapes, self.average), self.ops)
        while counters["epoch"] < config.epochs and not self.stop[0]:
            seed = mix(config.seed, counters["epoch"])
            epoch = self.corpus.epoch(config.batch_tokens, seed)
            self._train_epoch(team, model, epoch)
            counters["epoch"] += 1
            counters["batch"] = 0
            last = counters["epoch"] == config.epochs
            if counters["epoch"] % config.valid_every == 0 or last:
                scores = self.validation.run(averaged, team, config.valid_bleu)
                if scores is not None:
                    self._judge(scores)
            if team.rank == 0:
                self._save_epoch()
            team.wait()
        return counters

    def _train_epoch(self, team: Team, model: Model, epoch: Epoch) -> None:
        counters, n_batches = self.counters, len(epoch.plan)
        progress = tqdm(
            total=n_batches, initial=counters["batch"], desc=f"epoch {counters['epoch'] + 1}",
            disable=team.rank > 0, unit="step", mininterval=1.0, leave=False,
        )  # fmt: skip
        with progress:
            while counters["batch"] < n_batches:
                started = time.perf_counter()
                record = self._step(team, model, epoch)
                counters["step"] += 1
                counters["batch"] += 1
                if team.rank == 0:
                    record["tokens_per_s"] = round(
                        record.pop("n_tokens") / (time.perf_counter() - started)
                    )
                    progress.update()
                    progress.set_postfix(
                        loss=f"{record['loss']:.3f}", tok_s=record["tokens_per_s"], refresh=False
                    )
                    if counters["step"] % 10 == 0:
                        self._log(record)
                    if self.config.save_every and counters["step"] % self.config.save_every == 0:
                        self._save_state()

    def _step(self, team: Team, model: Model, epoch: Epoch) -> dict[str, Any]:
        """Gradients of this member's share, then the update of its range of the parameters."""
        config, counters, ops = self.config, self.counters, self.ops
        step, i = counters["step"] + 1, counters["batch"]
        n_tokens = epoch.n_target_tokens(i)
        grad = self.grads[team.rank]
        grad[...] = 0
        batch = epoch.batch(
            i, self.vocabulary.pad, team.rank, team.n_workers, 2 if config.rdrop_alpha else 1
        )
        sums = self.sums[team.rank]
        sums[:] = 0
        if batch is not None:
            dropout = Dropout(
                config.dropout, config.attention_dropout, config.activation_dropout,
                seed=mix(config.seed, step, team.rank),
            )  # fmt: skip
            logits, backward = model.forward(batch, dropout)
            scale, smoothing = 1.0 / n_tokens, config.label_smoothing
            if config.rdrop_alpha:
                sums[:3] = ops.softmax_xent_rdrop(
                    logits, batch.target_ids, smoothing, config.rdrop_alpha, scale
                )
            else:
                sums[:2] = ops.softmax_xent(logits, batch.target_ids, smoothing, scale)
            backward(logits)
            del logits, backward
        team.wait()
        own = team.share(self.n)
        total = self.grads[0][own]
        for other in self.grads[1:]:
            total += other[own]
        sums[3] = ops.sum_squares(total)
        team.wait()
        norm = math.sqrt(float(self.sums[:, 3].sum()))
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite (norm {norm})")
        clip = min(1.0, config.clip_norm / norm) if config.clip_norm and norm > 0 else 1.0
        fraction = (counters["epoch"] + i / len(epoch.plan)) / config.epochs
        rate = learning_rate(
            config.schedule, config.learning_rate, step, config.warmup_steps, fraction
        )
        self._update(own, rate, step, clip)
        record: dict[str, Any] = {}
        if team.rank == 0:
            loss, nll, kl, _ = (float(x) / n_tokens for x in self.sums.sum(axis=0))
            record = {
                "step": step, "epoch": round(counters["epoch"] + (i + 1) / len(epoch.plan), 4),
                "lr": rate, "loss": loss, "nll": nll, "grad_norm": norm, "n_tokens": n_tokens,
            }  # fmt: skip
            if config.rdrop_alpha:
                record["kl"] = kl
        team.wait()
        return record

    def _update(self, own: slice, rate: float, step: int, clip: float) -> None:
        """Adam and the average of weights on one range; matrices decay, vectors do not."""
        config = self.config
        middle = min(max(own.start, self.n_decayed), own.stop)
        for part, decay in (
            (slice(own.start, middle), config.weight_decay),
            (slice(middle, own.stop), 0.0),
        ):
            if part.stop > part.start:
                self.ops.adam(
                    self.weights[part], self.grads[0][part], self.adam_m[part], self.adam_v[part],
                    rate, config.beta1, config.beta2, config.eps, decay, step, clip,
                )  # fmt: skip
        if config.ema_decay:
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            average, weights = self.average[own], self.weights[own]
            block = 1 << 15  # stay in the cache
            for start in range(0, average.size, block):
                piece = average[start : start + block]
                piece += numpy.float32(1 - decay) * (weights[start : start + block] - piece)

    # ------------------------------------------------------------------ below: only rank 0

    def _judge(self, scores: dict[str, float]) -> None:
        """Log a validation, keep the best weights, and say when to stop."""
        counters = self.counters
        score = scores.get("bleu", -scores["valid_nll"])
        record = {"step": counters["step"], "epoch": counters["epoch"]} | scores
        self._log(record)
        text = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        tqdm.write(f"epoch {counters['epoch']}: {text}")
        if score > counters["best"]:
            counters["best"], counters["stale"] = score, 0
            save_weights(self.out / BEST, self.model_config, to_numpy(self.average), record)
            return
        counters["stale"] += 1
        if self.config.patience and counters["stale"] >= self.config.patience:
            tqdm.write(f"no better score in {counters['stale']} validations: stopping")
            self.stop[0] = 1

    def _save_epoch(self) -> None:
        counters = self.counters
        notes = {"step": counters["step"], "epoch": counters["epoch"]}
        if self.config.keep_last:
            path = self.out / f"epoch-{counters['epoch']:04d}.safetensors"
            save_weights(path, self.model_config, to_numpy(self.average), notes)
            for old in sorted(self.out.glob("epoch-*.safetensors"))[: -self.config.keep_last]:
                old.unlink()
        self._save_state()

    def _save_state(self) -> None:
        vectors = {name: to_numpy(vector) for name, vector in self._vectors().items()}
        counters = self.counters | {"config": asdict(self.config)}
        save_state(self.out / STATE, vectors, counters)

    def _log(self, record: dict[str, Any]) -> None:
        with (self.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
