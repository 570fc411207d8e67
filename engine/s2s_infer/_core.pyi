"""The C core as Python sees it: a mirror of ``csrc/s2s.h`` (no loops, no arithmetic, no text)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

ISA_NAMES: Final[tuple[str, ...]]
"""SIMD levels that are built in and that this CPU and operating system support, weakest first."""

TILE: Final[int]
"""Outputs per weight tile (16)."""

SIGNALS_SECONDS: Final[float]
"""How often a session that runs looks for signals, but between steps only (0.005)."""

def best_isa() -> str:
    """The level that ``isa=None`` chooses."""

def profile() -> dict[str, tuple[float, int]]:
    """Operation -> seconds spent in it so far and times begun, since the process started; empty but
    in a build made with S2S_PROFILE=1."""

def pack(weight: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Pack a row-major [n_out, n_in] matrix into tiles [ceil(n_out / 16), n_in, 16].

    dtype "float32" gives float32; "bfloat16" gives uint16 holding bfloat16 bits (nearest even).
    """

def pack_int8(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Quantize a row-major [n_out, n_in] matrix: tiles [n_tiles, ceil(n_in / 4), 16, 4], and scale
    and sum of each output [16 * n_tiles].  Raises OptionError for a weight that is not finite."""

def empty_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array that is not filled, 64-byte aligned as the core asks of tiles."""

def plain_ids(values: object, vocab_size: int) -> list[int] | None:
    """A copy of a list of ints from 0 to vocab_size - 1; None for anything else, right or wrong."""

class Pool:
    """Worker threads that sessions share: started lazily, anew after a fork, asleep when idle."""

    def __init__(self, n_threads: int) -> None: ...
    @property
    def n_threads(self) -> int: ...
    def wake(self) -> None:
        """Workers that sleep wait awake for a tenth of a millisecond, for a step to come."""

class Model:
    """Immutable weights.  Keeps references to the arrays of ``tensors`` (no copy)."""

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, npt.NDArray[Any]],
        isa: str | None = None,
        kv_dtype: str | None = None,
    ) -> None:
        """config: the fields of ``s2s_model_config``, with "encoder" and "decoder" as mappings of
        ``s2s_stack_config`` fields (all ints and floats, enums as their int values), and "heads" as
        a mapping of the heads' names to lists of mappings of ``s2s_head_layer_config`` fields.
        tensors: canonical names of s2s.h -> C-contiguous arrays, 64-byte aligned where tiles;
        float32 arrays are F32, uint16 arrays are BF16.
        kv_dtype: "float32" or "bfloat16", in which sessions keep keys and values; None: bfloat16
        if some matrix is int8, else float32.  Raises ModelError."""
    @property
    def isa(self) -> str: ...
    @property
    def kv_dtype(self) -> str: ...

class Hypothesis:
    """Fields as in ``s2s_hypothesis``."""

    tokens: list[int]
    logprobs: list[float] | None  # None without return_scores
    score: float | None  # likewise
    end_token: int | None
    finish_reason: str  # "eos" | "length" | "repetition" | "cancelled" | "scored"
    alignment: npt.NDArray[np.float32] | None  # [n_logprobs, n_source]
    alternative_ids: npt.NDArray[np.int32] | None  # [n_logprobs, n_alternatives]
    alternative_logprobs: npt.NDArray[np.float32] | None

class Result:
    id: int
    n_source: int
    n_steps: int
    n_reused: int
    hypotheses: list[Hypothesis]  # best first

class Prompt:
    """Keys and values of a prompt, for sessions of a model that is a decoder alone."""

    def __init__(self, model: Model, pool: Pool | None, ids: Sequence[int]) -> None:
        """Reads the prompt; signals are looked for between blocks."""
    @property
    def model(self) -> Model: ...
    @property
    def n_bytes(self) -> int: ...

class Options:
    """The options of a request, checked and laid out once for all requests that share them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """values: fields of ``s2s_options`` by name; absent ones have their defaults.  Lists:
        eos_token_ids, forced_eos_token_ids, suppress_tokens, begin_suppress_tokens, bad_words (a
        list of lists).  early_stopping: False, True or "never".  Raises OptionError."""
    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def max_new_tokens(self) -> int: ...

class Job(Protocol):
    """What Session.run needs of a request."""

    source: list[int]
    prefix: list[int]
    options: Options
    result: Result | None

class Session:
    """The core loop.  Use from one thread at a time; the GIL is free inside step()."""

    def __init__(
        self,
        model: Model,
        pool: Pool | None,
        max_rows: int,
        max_source_positions: int,
        max_target_positions: int,
        max_encoder_tokens: int,
        max_sources: int = 0,
        prompt: Prompt | None = None,
    ) -> None:
        """prompt: its keys and values are copied; requests begin behind what they have of it."""
    @property
    def n_bytes(self) -> int:
        """Memory reserved (resident only as it is used)."""
    def submit(
        self, source: Sequence[int], prefix: Sequence[int], options: Options | Mapping[str, Any]
    ) -> int:
        """Queue a request and return its id.  Raises OptionError (a ValueError) naming what was
        expected and found."""
    def step(self, n_steps: int = 1, seconds: float | None = None) -> int:
        """Advance every active row by n_steps tokens; returns how many requests are not handed out.

        Ends before that once nothing runs, and after the step in which `seconds` have passed.  The
        GIL is free meanwhile, and signals wait."""
    def next_result(self) -> Result | None: ...
    def results(self) -> list[Result]:
        """All that next_result has to give."""
    def run(self, jobs: Iterable[Job]) -> None:
        """Submit them all, make steps until each has its result, and set that.

        Signals are looked for every SIGNALS_SECONDS; one that raises leaves the jobs running."""
    def cancel(self, request_id: int) -> None: ...
    def progress(self, request_id: int) -> list[int]:
        """Tokens that all hypotheses agree on so far (start token left out)."""
    def set_record(self, record: Callable[[str, npt.NDArray[np.float32]], None] | None) -> None:
        """Receive every named intermediate tensor as it is computed (see s2s.h)."""

class Encoder:
    """The encoder alone, and the heads that read it.  Use from one thread at a time."""

    def __init__(
        self, model: Model, pool: Pool | None, *, max_positions: int, max_tokens: int
    ) -> None: ...
    def encode(
        self,
        sequences: Sequence[Sequence[int]],
        token_types: Sequence[Sequence[int]] | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Hidden states, one [n, d_model] array per sequence.  token_types: None: all are 0."""
    def head(
        self, name: str, states: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """A head ("pooler", "masked_lm", "classifier") over states [n, d_model]: its output
        [n, n_out] and the log of the sum of exp of each row [n].  Raises UnsupportedError where the
        model lacks it, ModelError for logits that are not numbers."""
    def set_record(self, record: Callable[[str, npt.NDArray[np.float32]], None] | None) -> None:
        """As Session.set_record, for one sequence at a time."""
