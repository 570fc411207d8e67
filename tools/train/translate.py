"""Translate and evaluate with the weights of a training run, on all cores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.train import ops as reference
from tools.train.checkpoint import load_weights
from tools.train.data import both_directions, read_tsv
from tools.train.generate import generate
from tools.train.layers.parameter import Parameters
from tools.train.model import Model, parameter_shapes
from tools.train.parallel import Team, available_cores, keep_freed_memory, run_team
from tools.train.validate import Validation
from tools.train.vocabulary import Vocabulary


def load_model(weights: Path, ops: str = "auto") -> Model:
    """The model of a weights file."""
    config, buffer = load_weights(weights)
    return Model(config, Parameters(parameter_shapes(config), buffer), reference.load(ops))


def translate(
    weights: Path,
    vocab: Path,
    texts: Sequence[str],
    to: str,
    temperature: float = 0.0,
    seed: int = 1,
    ops: str = "auto",
) -> list[str]:
    """Translations of ``texts`` into ``to``: greedy, or sampled at ``temperature``."""
    model, vocabulary = load_model(weights, ops), Vocabulary(vocab)
    sources = vocabulary.encode_source(texts, to)

    def work(team: Team) -> list[list[int]]:
        keep_freed_memory()
        mine = sources[team.rank :: team.n_workers]
        parts = team.gather(
            generate(model, mine, vocabulary.pad, temperature=temperature, seed=seed + team.rank)
        )
        rows: list[list[int]] = [[] for _ in sources]
        for rank, part in enumerate(parts or []):
            rows[rank :: team.n_workers] = part
        return rows

    return vocabulary.decode(run_team(available_cores(), work))


def evaluate(weights: Path, vocab: Path, tsv: Path, ops: str = "auto") -> dict[str, float]:
    """Scores of greedy decoding on the pairs of ``tsv``, both directions."""
    model = load_model(weights, ops)
    validation = Validation.of(both_directions(read_tsv(tsv)), Vocabulary(vocab))
    scores: dict[str, float] = run_team(
        available_cores(), lambda team: validation.run(model, team, bleu=True)
    )
    return scores
