"""The exceptions of s2s_infer.  A message is one sentence: what was expected, what was found."""

from __future__ import annotations


class S2SError(Exception):
    """Base class of all errors raised by s2s_infer."""


class ModelError(S2SError, ValueError):
    """A checkpoint, model file or model description is wrong, incomplete or of an unknown kind."""


class OptionError(S2SError, ValueError):
    """An option, token id or input is wrong."""


class InputTooLongError(OptionError):
    """An input has more tokens than the model has positions, and truncate=True was not given."""


class UnsupportedError(S2SError):
    """The request is valid, but this build, CPU or model cannot do it."""
