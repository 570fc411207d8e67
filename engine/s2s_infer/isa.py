"""Which SIMD level to use."""

from __future__ import annotations

import os

from . import _core
from .errors import OptionError


def choose_isa(isa: str | None) -> tuple[str, str]:
    """The SIMD level and why.

    isa: what the caller asked for; None: that of the environment variable S2S_ISA, else the best.
    Raises OptionError for a level that is unknown or that this CPU lacks.
    """
    name, reason = isa, "as asked for"
    if name is None:
        name, reason = os.environ.get("S2S_ISA") or None, "environment variable S2S_ISA"
    if name is None:
        return _core.best_isa(), "best of this CPU and build"
    if name not in _core.ISA_NAMES:
        source = "isa" if isa is not None else "the environment variable S2S_ISA"
        raise OptionError(
            f"{source} must be one of {', '.join(_core.ISA_NAMES)} on this CPU, not {name!r}."
        )
    return name, reason
