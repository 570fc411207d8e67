"""The choices that a `ModelConfig` makes, by name."""

from __future__ import annotations

from enum import Enum


class Activation(str, Enum):
    """Activation of the feed-forward layers."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"
    """0.5 x (1 + erf(x / sqrt 2))"""
    GELU_TANH = "gelu_tanh"
    """The tanh approximation of GELU."""
    IDENTITY = "identity"
    TANH = "tanh"


class NormKind(str, Enum):
    """What a norm computes."""

    LAYER = "layer"
    """Mean 0 and variance 1, times a weight, plus a bias."""
    RMS = "rms"
    """Mean square 1, times a weight."""


class NormPlace(str, Enum):
    """Where the norms of a block are, from its input to the residual sum."""

    POST = "post"
    """After the residual sum."""
    PRE = "pre"
    """Before the block."""
    SANDWICH = "sandwich"
    """Before the block and after it, before the residual sum."""


class Positions(str, Enum):
    """How positions enter: a table added to the embeddings, or in self-attention, or not at all."""

    SINUSOIDAL = "sinusoidal"
    """Interleaved sines and cosines (Vaswani et al., 2017)."""
    SINUSOIDAL_HALVES = "sinusoidal_halves"
    """The sines first, then the cosines (Marian)."""
    SINUSOIDAL_FAIRSEQ = "sinusoidal_fairseq"
    """The sines first, another spacing of the angles, the first position counted as 2 (M2M100)."""
    LEARNED = "learned"
    RELATIVE = "relative"
    """A bias for each head and distance is added to the scores (T5: Raffel et al., 2020)."""
    ROTARY = "rotary"
    """Queries and keys turn by an angle for each position (Su et al., 2021)."""
    NONE = "none"


class LabelScores(str, Enum):
    """How the logits of a classifier become scores."""

    SOFTMAX = "softmax"
    """Probabilities of labels of which one holds."""
    SIGMOID = "sigmoid"
    """A probability for each label by itself (multi-label classification)."""
    IDENTITY = "identity"
    """The numbers themselves (regression)."""


CORE_ENUMS: dict[Enum, int] = {
    **{activation: i for i, activation in enumerate(Activation)},
    NormKind.LAYER: 0,
    NormKind.RMS: 1,
    NormPlace.POST: 0,
    NormPlace.PRE: 1,
    NormPlace.SANDWICH: 2,
    Positions.NONE: 0,
    Positions.SINUSOIDAL: 1,
    Positions.SINUSOIDAL_HALVES: 1,
    Positions.SINUSOIDAL_FAIRSEQ: 1,
    Positions.LEARNED: 1,
    Positions.RELATIVE: 2,
    Positions.ROTARY: 3,
}
