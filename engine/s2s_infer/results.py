"""What a model returns."""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .records import record, record_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from .tokenizer import Tokenizer


class Alternative(NamedTuple):
    """A token that could have been chosen at a step."""

    token_id: int
    token: str | None
    """The token as the vocabulary writes it; None when the model has no tokenizer."""
    logprob: float


@record
class Hypothesis:
    """One output."""

    text: str | None
    """The decoded output, forced prefix included; None when the model has no tokenizer.  Decoded
    when it is first read."""
    token_ids: list[int]
    """Ids of the forced prefix and of the generated tokens, without start and end token."""
    tokens: list[str] | None
    """token_ids as the vocabulary writes them; None when the model has no tokenizer."""
    score: float | None
    """Sum of the generated tokens' log-probabilities, the end token's included, divided by their
    number ** length_penalty (transformers' sequences_scores); None with return_scores=False."""
    token_logprobs: list[float] | None
    """Natural log-probability of each of token_ids, then of the end token if there is one; None
    with return_scores=False."""
    finish_reason: str
    """"eos": the end token; "length": the output limit, also when it
    forced an end token (forced_eos_token_id); "repetition": repetition_stop;
    "cancelled"."""
    end_token_id: int | None = None
    """The end token that was generated, if one was."""
    alignment: npt.NDArray[np.float32] | None = None
    """[n_steps, len(input_ids)] cross-attention, mean over the heads of the last layer, where the
    steps are those of token_ids, then that of the end token; only with return_alignment."""
    alternatives: list[list[Alternative]] | None = None
    """The most probable tokens at each of these steps, best first; only with
    return_alternatives."""

    @classmethod
    def of_ids(
        cls,
        token_ids: list[int],
        tokenizer: Tokenizer | None,
        score: float | None,
        token_logprobs: list[float] | None,
        finish_reason: str,
        end_token_id: int | None,
        alignment: npt.NDArray[np.float32] | None,
        alternatives: list[list[Alternative]] | None,
    ) -> Hypothesis:
        """With text and tokens that the tokenizer makes when they are first read."""
        values: dict[str, Any] = {
            "token_ids": token_ids,
            "score": score,
            "token_logprobs": token_logprobs,
            "finish_reason": finish_reason,
            "end_token_id": end_token_id,
            "alignment": alignment,
            "alternatives": alternatives,
        }
        if tokenizer is None:
            values["text"] = values["tokens"] = None
        else:
            values["_tokenizer"] = tokenizer
        return record_of(cls, values)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in ("text", "tokens"):
                raise AttributeError(name)
            tokenizer, ids = self.__dict__["_tokenizer"], self.token_ids
            value = tokenizer.decode(ids) if name == "text" else tokenizer.tokens(ids)
            self.__dict__[name] = value
            return value

    def __getstate__(self) -> dict[str, Any]:  # a pickle takes the text, not the tokenizer
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hypothesis):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; alignment and alternatives only if they were asked for."""
        result: dict[str, Any] = {
            "text": self.text,
            "token_ids": self.token_ids,
            "tokens": self.tokens,
            "score": self.score,
            "token_logprobs": self.token_logprobs,
            "finish_reason": self.finish_reason,
            "end_token_id": self.end_token_id,
        }
        if self.alignment is not None:
            result["alignment"] = self.alignment.tolist()
        if self.alternatives is not None:
            result["alternatives"] = [
                [alternative._asdict() for alternative in step] for step in self.alternatives
            ]
        return result


@record
class GenerationResult:
    """The outputs for one input.  The fields of the best hypothesis are also attributes of this."""

    hypotheses: list[Hypothesis]
    """Best first; num_return_sequences of them, fewer only where a beam search can find no more
    (max_new_tokens=1 with a forced token, for instance)."""
    input_ids: list[int]
    """The ids that the encoder read, or the whole prompt of a decoder alone."""
    input_truncated: bool = False
    """The input was longer than the model's positions and was cut (truncate=True)."""
    seed: int | None = None
    """The seed that was used, when sampling."""
    n_reused: int = 0
    """How many of input_ids were not read again, since the call's prompt has their keys and
    values."""

    @property
    def text(self) -> str | None:
        return self.hypotheses[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.hypotheses[0].token_ids

    @property
    def tokens(self) -> list[str] | None:
        return self.hypotheses[0].tokens

    @property
    def score(self) -> float | None:
        return self.hypotheses[0].score

    @property
    def token_logprobs(self) -> list[float] | None:
        return self.hypotheses[0].token_logprobs

    @property
    def finish_reason(self) -> str:
        return self.hypotheses[0].finish_reason

    @property
    def end_token_id(self) -> int | None:
        return self.hypotheses[0].end_token_id

    @property
    def alignment(self) -> npt.NDArray[np.float32] | None:
        return self.hypotheses[0].alignment

    @property
    def alternatives(self) -> list[list[Alternative]] | None:
        return self.hypotheses[0].alternatives

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the best hypothesis's fields, those of the input, and "hypotheses" when
        there is more than one."""
        result = self.hypotheses[0].to_dict()
        result["input_ids"] = self.input_ids
        result["input_truncated"] = self.input_truncated
        if self.seed is not None:
            result["seed"] = self.seed
        if self.n_reused:
            result["n_reused"] = self.n_reused
        if len(self.hypotheses) > 1:
            result["hypotheses"] = [hypothesis.to_dict() for hypothesis in self.hypotheses]
        return result


class MaskCandidate(NamedTuple):
    """A token that may stand in the place of a mask token."""

    token_id: int
    token: str
    """The token as the vocabulary writes it."""
    text: str
    """What it decodes to."""
    probability: float


@record
class Classification:
    """What a classification head says of one text, or of one pair."""

    label: str
    """The label of the highest score."""
    score: float
    scores: list[tuple[str, float]]
    """Each label with its score, in the model's order: probabilities that add up to 1; of a
    multi-label model one probability for each label by itself; of a regression the numbers."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"label": self.label, "score": self.score, "scores": [list(s) for s in self.scores]}


@record
class ScoreResult:
    """How probable a given target is for a given source."""

    score: float
    """logprob divided by len(token_logprobs) ** length_penalty; comparable with the score of a
    Hypothesis."""
    logprob: float
    """Natural log-probability of the target with its end token: the sum of token_logprobs."""
    token_ids: list[int]
    """Ids of the target, without start and end token."""
    tokens: list[str] | None
    """token_ids as the vocabulary writes them; None when the model has no tokenizer."""
    token_logprobs: list[float]
    """One for each of token_ids, then the end token's."""
    input_ids: list[int] = field(default_factory=list)
    """The ids that the encoder read."""
    input_truncated: bool = False
    """The source was longer than the model's positions and was cut (truncate=True)."""
    n_reused: int = 0
    """As in GenerationResult."""

    @property
    def perplexity(self) -> float:
        """exp(-logprob / len(token_logprobs)); infinite if a token is impossible."""
        mean = -self.logprob / max(1, len(self.token_logprobs))
        return float(np.exp(mean)) if mean < 709 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "score": self.score,
            "logprob": self.logprob,
            "perplexity": self.perplexity,
            "token_ids": self.token_ids,
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "input_ids": self.input_ids,
            "input_truncated": self.input_truncated,
        }
