"""Prompts that many inputs begin with, read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _core
from .errors import OptionError

if TYPE_CHECKING:
    from .engine import Engine


class Prompt:
    """The beginning of many inputs, and the keys and values that a model made of it.

    Made by `Model.prompt`, for a model that is a decoder alone.  It never changes: any number of
    calls may use it at once, on any threads.  It holds n_bytes until it is let go; each session of
    a call that uses it copies them once, for all its rows.
    """

    __slots__ = ("core", "text", "token_ids")

    def __init__(self, engine: Engine, prompt: str | Sequence[int]) -> None:
        """Read it.  Raises OptionError for an empty one, InputTooLongError for one too long."""
        if engine.config.has_encoder or not engine.config.has_decoder:
            raise OptionError(
                f"a prompt is for a decoder alone, but this model ({engine.checkpoint.family}) has "
                "an encoder: there is nothing that outputs of different inputs could share."
            )
        self.text = prompt if isinstance(prompt, str) else None
        """None for one that was given as token ids."""
        ids = engine.source_ids(prompt, "the prompt")
        if not ids:
            raise OptionError("the prompt is empty: there is nothing to read.")
        self.token_ids: list[int] = engine.fit_source(ids, False, "the prompt")[0]
        self.core = _core.Prompt(engine.core, engine.pool, self.token_ids)

    @property
    def n_bytes(self) -> int:
        """Memory of its keys and values."""
        return self.core.n_bytes

    def join(self, source: str | Sequence[int]) -> str | Sequence[int]:
        """The whole input: the prompt and what follows it.

        Texts are joined before they become ids, so that a result is that of the whole text, even
        where a token reaches from one into the other.
        """
        if not isinstance(source, str):
            return [*self.token_ids, *source]
        if self.text is None:
            raise OptionError("the prompt was given as token ids, so token ids must follow it.")
        return self.text + source

    def __repr__(self) -> str:
        return f"<s2s_infer.Prompt of {len(self.token_ids)} tokens, {self.n_bytes} bytes>"


def choose_prompt(engine: Engine, prompt: Prompt | str | Sequence[int] | None) -> Prompt | None:
    """The prompt of a call: one that was read, or one to read now, for this call alone."""
    if prompt is None:
        return None
    if not isinstance(prompt, Prompt):
        return Prompt(engine, prompt)
    if prompt.core.model is not engine.core:
        raise OptionError("the prompt was read by another model.")
    return prompt
