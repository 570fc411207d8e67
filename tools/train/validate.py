"""Scores of a model on held-out pairs: negative log-likelihood, BLEU and chrF per direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import sacrebleu

from tools.train import ops
from tools.train.data import Pair, cut, pack
from tools.train.generate import generate
from tools.train.model import Model
from tools.train.parallel import Team
from tools.train.vocabulary import EOS, Vocabulary


def corpus_scores(
    outputs: Sequence[str], references: Sequence[str], to: str
) -> tuple[float, float]:
    """BLEU (Chinese split into characters) and chrF of a corpus, 0 to 100."""
    bleu = sacrebleu.corpus_bleu(
        list(outputs), [list(references)], tokenize="zh" if to == "zh" else "13a"
    )
    return bleu.score, sacrebleu.corpus_chrf(list(outputs), [list(references)]).score


@dataclass
class Validation:
    """The validation pairs, segmented once."""

    pairs: list[Pair]
    sources: list[list[int]]
    targets: list[list[int]]
    vocabulary: Vocabulary

    @classmethod
    def of(cls, pairs: list[Pair], vocabulary: Vocabulary) -> Validation:
        """Segment ``pairs``."""
        sources = vocabulary.encode([pair.source for pair in pairs])
        targets = vocabulary.encode([pair.target for pair in pairs])
        return cls(
            pairs,
            [[vocabulary.language(p.to), *s, EOS] for p, s in zip(pairs, sources, strict=True)],
            [[*ids, EOS] for ids in targets],
            vocabulary,
        )

    def nll(self, model: Model, chosen: Sequence[int]) -> tuple[float, int]:
        """Sum of negative log-likelihood over the targets of ``chosen``, and their tokens."""
        order = sorted(chosen, key=lambda i: len(self.targets[i]))
        total, n_tokens = 0.0, 0
        for start, stop in cut(numpy.array([len(self.targets[i]) for i in order]), 2048):
            part = order[start:stop]
            batch = pack(
                [self.sources[i] for i in part], [self.targets[i] for i in part],
                self.vocabulary.pad,
            )  # fmt: skip
            logits, _ = model.forward(batch)
            total += model.ops.softmax_xent(logits, batch.target_ids, 0.0, 1.0)[1]
            n_tokens += len(batch.target_ids)
        return total, n_tokens

    def run(self, model: Model, team: Team, bleu: bool) -> dict[str, float] | None:
        """All scores at rank 0, None elsewhere; every member measures its share."""
        chosen = range(team.rank, len(self.pairs), team.n_workers)
        nll, n_tokens = self.nll(model, chosen)
        outputs: list[list[int]] = []
        if bleu:
            outputs = generate(model, [self.sources[i] for i in chosen], self.vocabulary.pad)
        parts = team.gather((nll, n_tokens, outputs))
        if parts is None:
            return None
        scores = {"valid_nll": sum(p[0] for p in parts) / sum(p[1] for p in parts)}
        if bleu:
            rows: list[list[int]] = [[] for _ in self.pairs]
            for rank, part in enumerate(parts):
                rows[rank :: team.n_workers] = part[2]
            scores |= self.score(self.vocabulary.decode(rows))
        return scores

    def score(self, outputs: Sequence[str]) -> dict[str, float]:
        """BLEU and chrF of each direction, and the mean BLEU as ``bleu``."""
        scores: dict[str, float] = {}
        for name, to in (("zh_en", "en"), ("en_zh", "zh")):
            chosen = [i for i, pair in enumerate(self.pairs) if pair.to == to]
            if chosen:
                scores[f"bleu_{name}"], scores[f"chrf_{name}"] = corpus_scores(
                    [outputs[i] for i in chosen], [self.pairs[i].target for i in chosen], to
                )
        bleus = [value for name, value in scores.items() if name.startswith("bleu")]
        return scores | {"bleu": sum(bleus) / len(bleus)}


def to_numpy(array: ops.Array) -> numpy.ndarray:
    """A numpy array of an array of either module."""
    return array if isinstance(array, numpy.ndarray) else array.get()
