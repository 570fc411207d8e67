"""One call of a model: options and inputs are checked and made jobs, their results made ready."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any, overload

from . import _core, batching
from .batching import Job
from .engine import NO_TEXT_OPTIONS, Engine, TextOptions, without_limits
from .errors import InputTooLongError, OptionError, UnsupportedError
from .generation import GenerationConfig
from .languages import LanguageRule, TargetPlace
from .prompts import Prompt, choose_prompt
from .readers import Reader
from .records import record_of
from .results import Alternative, GenerationResult, Hypothesis, ScoreResult


class Call:
    """One call's options, resolved against the checkpoint's.  Immutable; calls of the same options
    share one, see `call_of`."""

    def __init__(
        self,
        engine: Engine,
        options: Mapping[str, Any],
        texts: TextOptions = NO_TEXT_OPTIONS,
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
            config, limits = without_limits(config.replace(**task.options))
            self._limits = limits if any(limits) else engine.limits
        config = config.replace(**options)
        self._missing_target: LanguageRule | None = None
        """Of a model that must know the target language, which nobody names."""
        config = self._with_target_language(config, options)
        roles = engine.checkpoint.special_tokens
        if not config.eos_token_id:
            config = config.replace(eos_token_id=roles.end)
        self.is_unique = config.do_sample and config.seed is None
        """Has a seed of its own."""
        if self.is_unique:
            config = config.replace(seed=int.from_bytes(os.urandom(4), "little"))
        start = config.decoder_start_token_id
        start = roles.start if start is None else start
        self.start: list[int] = []
        """What the decoder reads first, before a forced prefix."""
        if not engine.continues:
            if start is None:
                if self._missing_target is not None:
                    raise self._missing_target.missing_target()
                raise OptionError("the model names no start token: give decoder_start_token_id.")
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
            self._missing_target = rule
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
            raise self._missing_target.missing_target()
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
        engine, config = self.engine, self.config
        if engine.continues:
            source = engine.begin(source, where)
        if not source:
            return Job([], [], _core.Options({"max_new_tokens": 0}), self.n_rows)
        source, truncated = engine.fit_source(source, config.truncate, where)
        n_source, n_prompt = len(source), 0
        if engine.continues:
            prefix = [*source, *prefix]
            source, n_prompt = [], len(source)
        else:
            prefix = [*self.start, *prefix]
        # the last token is chosen, but never fed
        room = engine.config.decoder.max_positions + 1 - len(prefix)
        if room < 1:
            raise self._no_room(f"the forced prefix with its {self._beginning}", len(prefix))
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
        options = self._core_options.get(key)
        if options is None:
            values = config.to_core(
                n_prefix=key[0], max_new_tokens=key[1], default_limit=default_limit
            )
            options = _core.Options({**values, "n_prompt": n_prompt})
            _keep(self._core_options, key, options)
        return Job(source, prefix, options, self.n_rows, truncated, n_prompt)

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
        prepare: Any,
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

    def run_all(self, jobs: Sequence[Job]) -> list[GenerationResult]:
        """The results of the jobs, in order."""
        engine = self.engine
        batching.run_all(engine.core, engine.pool, engine.config, jobs, self.core_prompt)
        return [self.result(job) for job in jobs]

    def run_scores(self, jobs: Sequence[Job]) -> list[ScoreResult]:
        """The scores of score_jobs, in order."""
        engine = self.engine
        batching.run_all(engine.core, engine.pool, engine.config, jobs, self.core_prompt)
        return [self._score(job) for job in jobs]

    def _score(self, job: Job) -> ScoreResult:
        assert job.result is not None
        tokenizer = self.engine.checkpoint.tokenizer
        n_given = max(1, job.n_prompt)
        logprobs = job.result.hypotheses[0].logprobs
        assert logprobs is not None
        logprobs = logprobs[n_given - 1 :]
        total = sum(logprobs)
        target = job.prefix[n_given:-1]
        return ScoreResult(
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
        values = {
            "hypotheses": hypotheses,
            "input_ids": input_ids,
            "input_truncated": job.truncated,
            "seed": seed,
            "n_reused": n_reused,
        }
        return record_of(GenerationResult, values)

    def _hypothesis(self, item: _core.Hypothesis, job: Job) -> Hypothesis:
        tokenizer = self.engine.checkpoint.tokenizer
        tokens, logprobs = item.tokens, item.logprobs
        n_input = 0  # tokens of the prompt that the core counts as output
        if job.n_prompt > 1:
            n_input = job.n_prompt - 1
            tokens = tokens[n_input:]
            logprobs = None if logprobs is None else logprobs[n_input:]
        finish_reason = item.finish_reason
        if (
            finish_reason == "eos"
            and item.end_token in self.config.forced_eos_token_id
            and len(item.tokens) == len(job.prefix) - 2 + job.options.max_new_tokens
        ):
            finish_reason = "length"  # it ended only because the last token was forced
        return Hypothesis.of_ids(
            tokens,
            tokenizer,
            item.score,
            logprobs,
            finish_reason,
            item.end_token,
            item.alignment,
            None if item.alternative_ids is None else self._alternatives(item, n_input),
        )

    def _alternatives(self, item: _core.Hypothesis, n_input: int) -> list[list[Alternative]]:
        assert item.alternative_ids is not None and item.alternative_logprobs is not None
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


MAX_KEPT = 100
"""Most entries of a table of what is kept to be used again; a full one is emptied.  Calls, each
with a table of its own, keep 16 MB at most so (1.6 KB an entry)."""
_PLAIN = frozenset({bool, int, float, str, type(None)})
"""Types whose equal values mean the same option: what holds others is resolved anew."""


def _keep(table: dict[Any, Any], key: Any, value: Any) -> None:
    if len(table) >= MAX_KEPT:
        table.clear()
    table[key] = value


def call_of(
    kept: dict[Any, Call],
    engine: Engine,
    options: Mapping[str, Any],
    texts: TextOptions = NO_TEXT_OPTIONS,
    prompt: Prompt | str | Sequence[int] | None = None,
) -> Call:
    """The Call of these options: that of an earlier call of the same ones, or a new one.

    kept: the engine's Calls so far.
    """
    values = (*texts, *options.values())
    types = tuple(map(type, values))  # True is no 1 here
    if prompt is not None or not _PLAIN.issuperset(types):
        return Call(engine, options, texts, prompt)
    key = (values, types, *options)
    call = kept.get(key)
    if call is None:
        call = Call(engine, options, texts)
        if not call.is_unique:
            _keep(kept, key, call)
    return call
