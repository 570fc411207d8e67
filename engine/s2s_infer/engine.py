"""What calls run on: a model's weights, description, tokenizer and threads; its inputs' ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import _core
from .errors import InputTooLongError, ModelError, OptionError
from .generation import GenerationConfig
from .inputs import checked_ids
from .languages import SourcePlace, guess_target
from .loaders import Checkpoint
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


NO_TEXT_OPTIONS = TextOptions()
_UNPLACED_PADDING = {"roberta": "RoBERTa", "m2m_100": "M2M100"}
"""Families that give the padding token no position of its own."""


class Engine:
    """What a call runs on: the weights, the description, the threads."""

    def __init__(self, checkpoint: Checkpoint, core: _core.Model, pool: _core.Pool) -> None:
        self.checkpoint = checkpoint
        config = self.config = checkpoint.config
        self.core = core
        self.pool = pool
        self.generation, self.limits = without_limits(checkpoint.generation)
        self.continues = not config.has_encoder
        """The model is a decoder alone: its input is a prompt, its output continues it."""
        self.max_input = (config.decoder if self.continues else config.encoder).max_positions
        """Of a prompt too: the token that comes last is never fed."""
        self._unplaced = _UNPLACED_PADDING.get(checkpoint.family)

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ModelError naming the missing file if the checkpoint has none."""
        if self.checkpoint.tokenizer is None:
            missing = self.checkpoint.missing_tokenizer
            raise ModelError(missing or "this model has no tokenizer: give token ids.")
        return self.checkpoint.tokenizer

    def need_encoder(self, what: str) -> None:
        """Raise OptionError for a call that needs an encoder where there is none."""
        if self.continues:
            raise OptionError(
                f"{what} needs an encoder, but this model ({self.checkpoint.family}) is a decoder "
                "alone: it continues a prompt, with generate or stream."
            )

    def source_ids(
        self, source: str | Sequence[int], where: str, texts: TextOptions = NO_TEXT_OPTIONS
    ) -> list[int]:
        """Ids of a text, or the checked ids that are given."""
        texts.check()
        if self.continues:
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
        if self._unplaced is None:
            return
        padding = self.checkpoint.special_tokens.padding
        if padding in ids:
            raise OptionError(
                f"{where} has the padding token {padding}: {self._unplaced} gives it no position "
                "of its own, so it has no place in a text."
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
        reason = f"the model has {limit} positions"
        if limit < self.max_input:
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
        limit = min(limit or self.max_input, self.max_input)
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


class Limits(NamedTuple):
    """A checkpoint's or task's own output limit: it bounds the default, but is no request."""

    new_tokens: int | None
    length: int | None
    """As new_tokens, but everything that the decoder reads counts."""


def without_limits(config: GenerationConfig) -> tuple[GenerationConfig, Limits]:
    """The options without their output limit, and that limit."""
    new_tokens = config.max_new_tokens
    length = config.max_length if new_tokens is None else None
    return config.replace(max_new_tokens=None, max_length=None), Limits(new_tokens, length)
