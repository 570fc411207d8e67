"""One call of a model: options and inputs are checked and made jobs, their results made ready."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

from . import _core, batching
from .batching import Job
from .config import ModelConfig
from .errors import InputTooLongError, ModelError, OptionError, UnsupportedError
from .generation import GenerationConfig
from .inputs import checked_ids
from .languages import SourcePlace, TargetPlace, guess_target
from .loaders import Checkpoint
from .prompts import Prompt, choose_prompt
from .readers import IterableReader, Reader
from .results import Alternative, GenerationResult, Hypothesis, ScoreResult
from .tasks import Task, choose_task
from .tokenizer import Tokenizer


class TextOptions(NamedTuple):
    """What a caller says of texts beyond the texts themselves; see `Model`."""

    to: str | None = None
    source_lang: str | None = None
    task: str | None = None

    def given(self) -> list[str]:
        """name=value of those that are given."""
        return [f"{n}={v!r}" for n, v in zip(self._fields, self, strict=True) if v is not None]

    def check(self) -> None:
        """Raise OptionError for what is no text."""
        for name, value in zip(self._fields, self, strict=True):
            if value is not None and not isinstance(value, str):
                what = "the name of a task" if name == "task" else "the code of a language"
                raise OptionError(f"{name} must be {what}, not {value!r}.")


_NOTHING = TextOptions()


class Engine:
    """What a call runs on: the weights, the description, the threads."""

    def __init__(self, checkpoint: Checkpoint, core: _core.Model, pool: _core.Pool) -> None:
        self.checkpoint = checkpoint
        self.config: ModelConfig = checkpoint.config
        self.core = core
        self.pool = pool
        generation = checkpoint.generation
        self.generation, self.limits = _without_limits(generation)

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ModelError naming the missing file if the checkpoint has none."""
        if self.checkpoint.tokenizer is None:
            missing = self.checkpoint.missing_tokenizer
            raise ModelError(missing or "this model has no tokenizer: give token ids.")
        return self.checkpoint.tokenizer

    @property
    def continues(self) -> bool:
        """The model is a decoder alone: its input is a prompt, its output continues it."""
        return not self.config.has_encoder

    def need_encoder(self, what: str) -> None:
        """Raise OptionError for a call that needs an encoder where there is none."""
        if self.continues:
            raise OptionError(
                f"{what} needs an encoder, but this model ({self.checkpoint.family}) is a decoder "
                "alone: it continues a prompt, with generate or stream."
            )

    def source_ids(
        self, source: str | Sequence[int], where: str, texts: TextOptions = _NOTHING
    ) -> list[int]:
        """Ids of a text, or the checked ids that are given."""
        texts.check()
        for name in ("to", "source_lang"):
            if getattr(texts, name) is not None:
                self.need_encoder(f"{name}={getattr(texts, name)!r}")
        if not isinstance(source, str):
            if texts.given():
                raise OptionError(
                    f"{where} is given as token ids, so {texts.given()[0]} cannot apply."
                )
            return checked_ids(where, source, self.config.source_vocab_size)
        tokenizer = self.tokenizer
        to, source_lang, _ = texts
        task = self.task(texts)
        if task is not None:
            source = task.prefix + source
            if texts.task is None:  # the languages chose it
                to = source_lang = None
        if to is None:
            to = guess_target(source, tuple(tokenizer.languages))
        try:
            return tokenizer.encode_source(source, to=to, source_lang=source_lang)
        except OptionError as error:
            if to is not None and to not in tokenizer.languages:
                raise
            raise OptionError(f"{where}: {error}") from None

    def task(self, texts: TextOptions) -> Task | None:
        """The task that the caller's options mean."""
        return choose_task(self.checkpoint.tasks, texts.task, texts.source_lang, texts.to)

    def target_ids(self, target: str | Sequence[int], where: str) -> list[int]:
        """As source_ids, on the target side; no start and end token."""
        if isinstance(target, str):
            ids = self.tokenizer.encode_target(target)
        else:
            ids = checked_ids(where, target, self.config.vocab_size)
        self.check_padding(ids, where)
        return ids

    def check_padding(self, ids: Sequence[int], where: str) -> None:
        """Raise OptionError for a padding token that the family gives no position of its own."""
        padding = self.checkpoint.special_tokens.padding
        name = {"roberta": "RoBERTa", "m2m_100": "M2M100"}.get(self.checkpoint.family)
        if name is not None and padding in ids:
            raise OptionError(
                f"{where} has the padding token {padding}: {name} gives it no position of its own, "
                "so it has no place in a text."
            )

    def begin(self, ids: list[int], where: str) -> list[int]:
        """What a decoder alone continues: the ids, or the beginning token where there are none.

        Raises OptionError where the model names no such token.
        """
        if ids:
            return ids
        bos = self.checkpoint.special_tokens.bos
        if bos is None:
            raise OptionError(
                f"{where} is empty, and the model names no token to begin with (bos_token_id): "
                "give at least one token."
            )
        return [bos]

    def too_long(self, ids: Sequence[int], limit: int, where: str) -> InputTooLongError:
        """The error for a source that has more tokens than `limit`."""
        stack = self.config.decoder if self.continues else self.config.encoder
        reason = f"the model has {limit} positions"
        if limit < stack.max_positions:
            reason = f"its vectors are made of at most {limit} (max_seq_length of the checkpoint)"
        return InputTooLongError(
            f"{where} has {len(ids)} tokens, but {reason}; the option truncate cuts it."
        )

    def fit_source(
        self, ids: list[int], truncate: bool, where: str, limit: int = 0
    ) -> tuple[list[int], bool]:
        """The ids, cut to the model's positions if that is allowed, and whether they were cut.

        limit: fewer positions, for a model with an encoder; 0: all.
        """
        self.check_padding(ids, where)
        stack = self.config.decoder if self.continues else self.config.encoder
        n_positions = stack.max_positions  # of a prompt too: the token that comes last is never fed
        limit = min(limit or n_positions, n_positions)
        if len(ids) <= limit:
            return ids, False
        if not truncate:
            raise self.too_long(ids, limit, where)
        if self.continues:  # what is continued is the end
            return ids[len(ids) - limit :], True
        tokenizer = self.checkpoint.tokenizer
        rule = None if tokenizer is None else tokenizer.language_rule
        n_last = 2 if rule is not None and rule.source_place is SourcePlace.SUFFIX else 1
        if limit <= n_last:
            raise InputTooLongError(
                f"the model has only {limit} positions, too few to cut {where}."
            )
        return [*ids[: limit - n_last], *ids[-n_last:]], True


class _Limits(NamedTuple):
    """A checkpoint's or task's own output limit: it bounds the default, but is no request."""

    new_tokens: int | None
    length: int | None
    """As new_tokens, but everything that the decoder reads counts."""


def _without_limits(config: GenerationConfig) -> tuple[GenerationConfig, _Limits]:
    """The options without their output limit, and that limit."""
    new_tokens = config.max_new_tokens
    length = config.max_length if new_tokens is None else None
    return config.replace(max_new_tokens=None, max_length=None), _Limits(new_tokens, length)


class Call:
    """One call's options, resolved against the checkpoint's."""

    def __init__(
        self,
        engine: Engine,
        options: Mapping[str, Any],
        texts: TextOptions = _NOTHING,
        prompt: Prompt | str | Sequence[int] | None = None,
    ) -> None:
        self.engine = engine
        self.texts = texts
        texts.check()
        if not engine.config.has_decoder:
            raise UnsupportedError(
                f"this model ({engine.checkpoint.family}) is an encoder alone, which generates no "
                "text: it can encode, fill masks or classify."
            )
        config = engine.generation
        self._limits = engine.limits
        task = engine.task(texts)
        if task is not None:
            config, limits = _without_limits(config.replace(**task.options))
            self._limits = limits if any(limits) else engine.limits
        config = config.replace(**options)
        self._missing_target: OptionError | None = None
        config = self._with_target_language(config, options)
        roles = engine.checkpoint.special_tokens
        if not config.eos_token_id:
            config = config.replace(eos_token_id=roles.end)
        if config.do_sample and config.seed is None:
            config = config.replace(seed=int.from_bytes(os.urandom(4), "little"))
        start = config.decoder_start_token_id
        start = roles.start if start is None else start
        self.start: list[int] = []
        """What the decoder reads first, before a forced prefix."""
        if not engine.continues:
            if start is None:
                raise self._missing_target or OptionError(
                    "the model names no start token: give decoder_start_token_id."
                )
            self.start = [start]
        self.config: GenerationConfig = config
        self._core_options: dict[tuple[int, int, int], _core.Options] = {}  # shared by alike jobs
        self.prompt = choose_prompt(engine, prompt)
        self.n_rows = config.num_beams
        if config.do_sample and config.num_beams == 1:
            self.n_rows = config.num_return_sequences

    def _with_target_language(
        self, config: GenerationConfig, options: Mapping[str, Any]
    ) -> GenerationConfig:
        """The options with the token of the target language, where the model begins with one."""
        tokenizer = self.engine.checkpoint.tokenizer
        rule = None if tokenizer is None else tokenizer.language_rule
        if rule is None:
            return config
        key = (
            "forced_bos_token_id"
            if rule.target_place is TargetPlace.FORCED
            else "decoder_start_token_id"
        )
        to = self.texts.to
        if to is None and key not in options:
            to = rule.to
        if to is not None:
            return config.replace(**{key: rule.id(to, "target")})
        given = getattr(config, key)
        if given is None or (key not in options and given not in rule.codes.values()):
            self._missing_target = rule.missing_target()
        return config

    # ---- inputs to jobs ----

    @overload
    def whole(self, source: Sequence[int]) -> Sequence[int]: ...
    @overload
    def whole(self, source: str | Sequence[int]) -> str | Sequence[int]: ...
    def whole(self, source: str | Sequence[int]) -> str | Sequence[int]:
        """The input with the call's prompt before it."""
        return source if self.prompt is None else self.prompt.join(source)

    @property
    def core_prompt(self) -> _core.Prompt | None:
        """What sessions of this call take."""
        return None if self.prompt is None else self.prompt.core

    def source(self, source: str | Sequence[int], where: str) -> list[int]:
        """As Engine.source_ids.  Raises OptionError too if the target language must be known."""
        if isinstance(source, str) and self._missing_target is not None:
            raise self._missing_target
        return self.engine.source_ids(source, where, self.texts)

    def target(self, target: str | Sequence[int], where: str) -> list[int]:
        """As Engine.target_ids; a text's ids begin with the token that every output begins with."""
        ids = self.engine.target_ids(target, where)
        forced = self.config.forced_bos_token_id
        if isinstance(target, str) and ids and forced is not None:
            return [forced, *ids]
        return ids

    def input_job(
        self,
        source: str | Sequence[int],
        prefix: str | Sequence[int] | None,
        where: str,
    ) -> Job:
        """The job of a text or of ids, behind the call's prompt; blank texts have an empty
        source, but where they are continued."""
        source = self.whole(source)
        if isinstance(source, str) and not source.strip() and not self.engine.continues:
            self.engine.tokenizer  # noqa: B018 (a model without one says so for blank texts too)
            return self.job([], [], where)
        ids = self.source(source, where)
        prefix_ids = [] if prefix is None else self.target(prefix, "target_prefix")
        return self.job(ids, prefix_ids, where)

    def job(self, source: list[int], prefix: list[int], where: str) -> Job:
        """The job of one source.  An empty one gives an empty result, or, continued, what begins
        with the beginning token."""
        if self.engine.continues:
            source = self.engine.begin(source, where)
        if not source:
            return Job([], [], _core.Options({"max_new_tokens": 0}), self.n_rows)
        source, truncated = self.engine.fit_source(source, self.config.truncate, where)
        n_source, n_prompt = len(source), 0
        if self.engine.continues:
            prefix = [*source, *prefix]
            source, n_prompt = [], len(source)
        else:
            prefix = [*self.start, *prefix]
        # the last token is chosen, but never fed
        room = self.engine.config.decoder.max_positions + 1 - len(prefix)
        if room < 1:
            raise self._no_room(f"the forced prefix with its {self._beginning}", len(prefix))
        config = self.config
        default_limit = config.max_new_tokens is None and config.max_length is None
        if config.max_new_tokens is not None:
            limit = config.max_new_tokens
        elif config.max_length is not None:
            limit = config.max_length - len(prefix)
            if limit < 1:
                raise OptionError(
                    f"max_length={config.max_length} leaves no token to generate after "
                    f"{len(prefix)} given ones ({self._beginning} and forced prefix)."
                )
        else:
            limit = min(4 * n_source + 64, self._limits.new_tokens or room)
            if self._limits.length is not None:
                n_read = len(prefix) if n_prompt else 1
                limit = min(limit, max(1, self._limits.length - n_read))
        key = (len(prefix), min(limit, room), n_prompt)
        if key not in self._core_options:
            values = config.to_core(
                n_prefix=key[0], max_new_tokens=key[1], default_limit=default_limit
            )
            self._core_options[key] = _core.Options({**values, "n_prompt": n_prompt})
        return Job(source, prefix, self._core_options[key], self.n_rows, truncated, n_prompt)

    def score_job(self, source: list[int], target: list[int], where: str) -> Job:
        """The job that scores the target with its end token."""
        if self.engine.continues:
            source = self.engine.begin(source, where)
        if not source:
            raise OptionError(f"{where} is empty: there is nothing to score.")
        if not self.config.eos_token_id:
            raise OptionError("the model names no end token: a target cannot be scored.")
        source, truncated = self.engine.fit_source(source, self.config.truncate, where)
        target = [*target, self.config.eos_token_id[0]]
        prefix = [*self.start, *target]
        n_prompt = 0
        if self.engine.continues:
            prefix, source, n_prompt = [*source, *target], [], len(source)
        if len(prefix) - 1 > self.engine.config.decoder.max_positions:
            raise self._no_room(f"the target with its {self._beginning}", len(prefix) - 1)
        options = _core.Options({"score_only": True, "max_new_tokens": 0, "n_prompt": n_prompt})
        return Job(source, prefix, options, 1, truncated, n_prompt)

    @property
    def _beginning(self) -> str:
        """What the decoder reads before a forced prefix or a target."""
        return "prompt" if self.engine.continues else "start token"

    def _no_room(self, what: str, n_tokens: int) -> OptionError:
        limit = self.engine.config.decoder.max_positions
        return InputTooLongError(
            f"{what} has {n_tokens} tokens, but the model's decoder has {limit} positions."
        )

    # ---- jobs to results ----

    def run(
        self,
        items: Reader[Any],
        prepare: Any = lambda job: job,
        window: int = batching.WINDOW,
    ) -> Generator[GenerationResult, None, None]:
        """The results of the items, in order; `prepare` makes an item's job."""
        engine = self.engine
        for job in batching.run(
            engine.core,
            engine.pool,
            engine.config,
            items,
            prepare,
            window,
            self.core_prompt,
        ):
            yield self.result(job)

    def run_scores(self, jobs: Sequence[Job]) -> Iterator[ScoreResult]:
        """The scores of score_jobs, in order."""
        engine = self.engine
        tokenizer = engine.checkpoint.tokenizer
        for job in batching.run(
            engine.core,
            engine.pool,
            engine.config,
            IterableReader(jobs),
            lambda job: job,
            prompt=self.core_prompt,
        ):
            assert job.result is not None
            n_given = max(1, job.n_prompt)
            logprobs = job.result.hypotheses[0].logprobs
            assert logprobs is not None
            logprobs = logprobs[n_given - 1 :]
            total = sum(logprobs)
            target = job.prefix[n_given:-1]
            yield ScoreResult(
                score=total / len(logprobs) ** self.config.length_penalty,
                logprob=total,
                token_ids=target,
                tokens=None if tokenizer is None else tokenizer.tokens(target),
                token_logprobs=logprobs,
                input_ids=job.source or job.prefix[:n_given],
                input_truncated=job.truncated,
                n_reused=job.result.n_reused,
            )

    def result(self, job: Job) -> GenerationResult:
        """What the caller gets for a finished job."""
        if job.result is None:  # an empty input
            has_text = self.engine.checkpoint.tokenizer is not None
            has_scores = self.config.return_scores
            empty = Hypothesis(
                text="" if has_text else None,
                token_ids=[],
                tokens=[] if has_text else None,
                score=0.0 if has_scores else None,
                token_logprobs=[] if has_scores else None,
                finish_reason="eos",
            )
            hypotheses = [empty] * self.config.num_return_sequences
        else:
            hypotheses = [self._hypothesis(item, job) for item in job.result.hypotheses]
        seed = self.config.seed if self.config.do_sample else None
        input_ids = job.source or job.prefix[: job.n_prompt]
        n_reused = 0 if job.result is None else job.result.n_reused
        return GenerationResult(hypotheses, input_ids, job.truncated, seed, n_reused)

    def _hypothesis(self, item: _core.Hypothesis, job: Job) -> Hypothesis:
        tokenizer = self.engine.checkpoint.tokenizer
        n_input = max(0, job.n_prompt - 1)  # tokens of the prompt that the core counts as output
        tokens = item.tokens[n_input:]
        logprobs = None if item.logprobs is None else item.logprobs[n_input:]
        finish_reason = item.finish_reason
        if (
            finish_reason == "eos"
            and item.end_token in self.config.forced_eos_token_id
            and len(item.tokens) == len(job.prefix) - 2 + job.options.values["max_new_tokens"]
        ):
            finish_reason = "length"  # it ended only because the last token was forced
        return Hypothesis.of_ids(
            tokens,
            tokenizer,
            score=item.score,
            token_logprobs=logprobs,
            finish_reason=finish_reason,
            end_token_id=item.end_token,
            alignment=item.alignment,
            alternatives=self._alternatives(item, n_input),
        )

    def _alternatives(self, item: _core.Hypothesis, n_input: int) -> list[list[Alternative]] | None:
        if item.alternative_ids is None or item.alternative_logprobs is None:
            return None
        tokenizer = self.engine.checkpoint.tokenizer
        names: Sequence[str | None]
        steps = []
        for row, logprobs in zip(
            item.alternative_ids[n_input:].tolist(),
            item.alternative_logprobs[n_input:].tolist(),
            strict=True,
        ):
            ids = [token for token in row if token >= 0]  # fewer than k may have been possible
            names = [None] * len(ids) if tokenizer is None else tokenizer.tokens(ids)
            steps.append([Alternative(*one) for one in zip(ids, names, logprobs, strict=False)])
        return steps
