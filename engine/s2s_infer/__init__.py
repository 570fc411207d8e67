"""s2s_infer: inference of Transformers on CPUs, encoder-decoder ones above all.

    import s2s_infer
    model = s2s_infer.load()                    # the bundled zh <-> en model, or load("path")
    model.translate("今天天气很好", to="en")

`load` opens a model, `Model` runs it, `GenerationConfig` lists the decoding options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputTooLongError, ModelError, OptionError, S2SError, UnsupportedError
    from .generation import GenerationConfig
    from .model import Model
    from .opening import load
    from .prompts import Prompt
    from .results import (
        Classification,
        GenerationResult,
        Hypothesis,
        MaskCandidate,
        ScoreResult,
    )

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "GenerationConfig",
    "GenerationResult",
    "Hypothesis",
    "InputTooLongError",
    "MaskCandidate",
    "Model",
    "ModelError",
    "OptionError",
    "Prompt",
    "S2SError",
    "ScoreResult",
    "UnsupportedError",
    "__version__",
    "load",
]

_HOME = {
    "Classification": "results",
    "GenerationConfig": "generation",
    "GenerationResult": "results",
    "Hypothesis": "results",
    "MaskCandidate": "results",
    "Model": "model",
    "Prompt": "prompts",
    "ScoreResult": "results",
    "load": "opening",
}


def __getattr__(name: str) -> Any:
    """Import public names at their first use: `s2s-infer --help` does not wait for numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
