"""Drives csrc/search alone: a shared library through ctypes, and a stand-in for a model.

The stand-in gives logits as a fixed function of the whole token history, the same in numpy and
inside a transformers model, so that the search can be compared with generate() without any network.
Only `reference` needs torch and transformers.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char, c_float, c_int32, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
START = 1
EOS = 0

Ids = list[int]


@dataclass(frozen=True)
class Case:
    """One search; `options` has the names of GenerationConfig, eos_token_id always as a list."""

    vocab: int
    seed: int
    prefix: tuple[int, ...] = (START,)
    source: tuple[int, ...] = (2, 3, 4, 0)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"v{self.vocab}", f"s{self.seed}", f"p{len(self.prefix)}"]
        return "-".join(words + [f"{name}={value}" for name, value in self.options.items()])


@dataclass
class Hypothesis:
    tokens: Ids  # after the start token, end token left out
    score: float
    end_token: int
    finish_reason: str
    logprobs: list[float]
    alternatives: list[list[tuple[int, float]]]
    alignment: np.ndarray | None  # [n_logprobs, n_source]


# ---- The stand-in for a model ------------------------------------------------------------------


@lru_cache(maxsize=64)
def table(vocab: int, seed: int) -> np.ndarray:
    """Logits of every state [n_states, vocab]; the end token becomes likely after some steps."""
    n_states = 4099 if vocab <= 100 else 509
    random = np.random.default_rng([vocab, seed])
    logits = random.normal(0.0, 2.0, (n_states, vocab))
    logits[:, EOS] += random.uniform(0.0, 0.5 * np.log(vocab)) + 0.5
    return logits.astype(np.float32)


def state(history: Sequence[int], n_states: int) -> int:
    h = len(history)
    for token in history:
        h = (h * 31 + token + 7) % n_states
    return h


def logits_of(case: Case, history: Sequence[int]) -> np.ndarray:
    rows = table(case.vocab, case.seed)
    return rows[state(history, len(rows))]


# ---- The library -------------------------------------------------------------------------------


class Options(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in (
            "max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences",
            "early_stopping", "do_sample", "top_k", "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size", "forced_bos_token_id", "repetition_stop",
            "return_scores", "n_alternatives", "return_alignment", "renormalize_logits",
            "n_prompt", "score_only",
        )),
        *((name, c_float) for name in (
            "length_penalty", "temperature", "top_p", "min_p", "repetition_penalty",
        )),
        ("seed", c_uint64),
        *((name, POINTER(c_int32)) for name in (
            "eos_token_ids", "forced_eos_token_ids", "suppress_tokens", "begin_suppress_tokens",
            "bad_words", "bad_words_offsets",
        )),
        *((name, c_int32) for name in (
            "n_eos_token_ids", "n_forced_eos_token_ids", "n_suppress_tokens",
            "n_begin_suppress_tokens", "n_bad_words",
        )),
    ]  # fmt: skip


class Request(ctypes.Structure):
    _fields_ = [
        ("source", POINTER(c_int32)),
        ("n_source", c_int32),
        ("prefix", POINTER(c_int32)),
        ("n_prefix", c_int32),
        ("options", Options),
    ]


class CHypothesis(ctypes.Structure):
    _fields_ = [
        ("tokens", POINTER(c_int32)),
        ("logprobs", POINTER(c_float)),
        ("alignment", POINTER(c_float)),
        ("alternative_ids", POINTER(c_int32)),
        ("alternative_logprobs", POINTER(c_float)),
        *((name, c_int32) for name in ("n_tokens", "n_logprobs", "end_token", "finish_reason")),
        ("score", c_float),
    ]


RESULT_COUNTS = ("n_hypotheses", "n_source", "n_alternatives", "n_steps", "n_reused")


class Result(ctypes.Structure):
    _fields_ = [
        ("id", c_uint64),
        *((name, c_int32) for name in RESULT_COUNTS),
        ("hypotheses", POINTER(CHypothesis)),
    ]


class Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("message", c_char * 512)]


FINISH_REASONS = ("eos", "length", "repetition", "cancelled", "scored")
EARLY_STOPPING = {False: 0, True: 1, "never": 2}
LISTS = {
    "eos_token_id": "eos_token_ids",
    "forced_eos_token_id": "forced_eos_token_ids",
    "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
}


def build(folder: Path) -> ctypes.CDLL:
    """Compiles search, its base and the generic kernels into one library in `folder`."""
    csrc = ROOT / "csrc"
    sources = [
        *sorted((csrc / "search").glob("*.c")),
        csrc / "base" / "arena.c",
        csrc / "base" / "status.c",
        csrc / "kernels" / "generic.c",
    ]
    path = folder / "libsearch.so"
    command = ["cc", "-std=c11", "-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    subprocess.run([*command, *map(str, sources), "-lm", "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    for name, result in (
        ("init", c_void_p), ("tokens", POINTER(c_int32)), ("parents", POINTER(c_int32)),
        ("alignment", POINTER(c_float)), ("bytes", c_size_t),
    ):  # fmt: skip
        getattr(library, f"s2s_search_{name}").restype = result
    library.s2s_sample_uniform.restype = ctypes.c_double
    return library


def int_array(values: Sequence[int]) -> Any:
    return (c_int32 * max(len(values), 1))(*values)


def make_request(library: ctypes.CDLL, case: Case) -> tuple[Request, list[Any]]:
    """The request and what must live as long as it."""
    request = Request()
    options = request.options
    library.s2s_options_default(ctypes.byref(options))
    request.source, request.prefix = int_array(case.source), int_array(case.prefix)
    request.n_source, request.n_prefix = len(case.source), len(case.prefix)
    given = {"eos_token_id": [EOS], **case.options}
    keep: list[Any] = [case]
    for name, value in given.items():
        if name in LISTS:
            keep.append(int_array(value))
            setattr(options, LISTS[name], keep[-1])
            setattr(options, f"n_{LISTS[name]}", len(value))
        elif name == "bad_words_ids":
            keep.append(int_array([token for word in value for token in word]))
            options.bad_words = keep[-1]
            keep.append(int_array(np.cumsum([0, *map(len, value)])))
            options.bad_words_offsets = keep[-1]
            options.n_bad_words = len(value)
        elif name == "early_stopping":
            options.early_stopping = EARLY_STOPPING[value]
        else:
            setattr(options, name, value)
    return request, keep


def aligned(n: int, dtype: type = np.float32) -> np.ndarray:
    """Zeros at a multiple of 64 bytes."""
    block = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    begin = -block.ctypes.data % 64
    return block[begin : begin + n * np.dtype(dtype).itemsize].view(dtype)


class Search:
    """One search of csrc/search; as the session does, it feeds tokens and gives logits back."""

    def __init__(self, library: ctypes.CDLL, case: Case) -> None:
        self.library, self.case = library, case
        request, _keep = make_request(library, case)
        error = Error()
        reference = ctypes.byref(request)
        if library.s2s_search_validate(reference, case.vocab, ctypes.byref(error)) != 0:
            raise ValueError(error.message.decode())
        n_bytes = library.s2s_search_bytes(reference, case.vocab, 1)
        if n_bytes == 0:
            raise OverflowError("the request needs more memory than can be addressed")
        self.max_rows = library.s2s_search_n_rows(reference)
        self.block = aligned(n_bytes, np.uint8)
        kernels = ctypes.byref(c_char.in_dll(library, "s2s_kernels_generic"))
        self.handle = c_void_p(
            library.s2s_search_init(
                c_void_p(self.block.ctypes.data), reference, case.vocab, 1, kernels
            )
        )
        # The search must have copied what it needs: overwrite the caller's arrays.
        for array in (*_keep[1:], request.source, request.prefix):
            n = len(array) if isinstance(array, ctypes.Array) else 0
            for i in range(n):
                array[i] = -7
        self.histories: list[Ids] = [[]]
        self.logits = aligned(case.vocab + 15)

    @property
    def n_live(self) -> int:
        return int(self.library.s2s_search_n_live(self.handle))

    def step(self, model: Callable[[Case, Ids], np.ndarray] = logits_of) -> None:
        n = self.n_live
        assert n <= self.max_rows
        tokens = self.library.s2s_search_tokens(self.handle)[:n]
        self.histories = [
            [*history, token] for history, token in zip(self.histories, tokens, strict=True)
        ]
        for row in reversed(range(n)):  # any order will do
            self.logits[: self.case.vocab] = model(self.case, self.histories[row])
            weights = self.library.s2s_search_alignment(self.handle, row)
            if weights:
                for j in range(len(self.case.source)):
                    weights[j] = sum(self.histories[row]) + j
            self.library.s2s_search_row(self.handle, row, c_void_p(self.logits.ctypes.data))
        self.library.s2s_search_step(self.handle)
        parents = self.library.s2s_search_parents(self.handle)
        self.histories = [self.histories[parents[row]] for row in range(self.n_live)]

    def progress(self) -> Ids:
        ids = int_array([0] * 1000)
        n = self.library.s2s_search_progress(self.handle, ids, 1000)
        return list(ids[:n])

    def cancel(self) -> None:
        self.library.s2s_search_cancel(self.handle)

    def result(self) -> tuple[list[Hypothesis], int]:
        """Hypotheses, best first, and the number of steps."""
        result = Result()
        self.library.s2s_search_result(self.handle, ctypes.byref(result))
        hypotheses = []
        for i in range(result.n_hypotheses):
            h = result.hypotheses[i]
            n, k, m = h.n_logprobs, result.n_alternatives, len(self.case.source)
            hypotheses.append(
                Hypothesis(
                    tokens=h.tokens[: h.n_tokens],
                    score=h.score,
                    end_token=h.end_token,
                    finish_reason=FINISH_REASONS[h.finish_reason],
                    logprobs=h.logprobs[:n],
                    alternatives=[
                        list(zip(h.alternative_ids[j * k : j * k + k],
                                 h.alternative_logprobs[j * k : j * k + k], strict=True))
                        for j in range(n)
                    ] if k else [],
                    alignment=np.array(h.alignment[: n * m]).reshape(n, m) if h.alignment else None,
                )
            )  # fmt: skip
        return hypotheses, result.n_steps

    def run(self, model: Callable[[Case, Ids], np.ndarray] = logits_of) -> list[Hypothesis]:
        while self.n_live:
            self.step(model)
        return self.result()[0]


# ---- The reference -----------------------------------------------------------------------------


@lru_cache(maxsize=8)
def reference_model(vocab: int) -> Any:
    """A transformers encoder-decoder whose logits are those of `table`."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

    class TableConfig(PretrainedConfig):
        model_type = "table"

    class Encoder(torch.nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids: Any = None, **_: Any) -> Any:
            return BaseModelOutput(last_hidden_state=input_ids[..., None].float())

    class TableModel(PreTrainedModel, GenerationMixin):
        config_class = TableConfig
        main_input_name = "input_ids"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.encoder = Encoder()
            self.unused = torch.nn.Parameter(torch.zeros(1))  # tells the device
            self.seed = 0

        def get_encoder(self, *_: Any, **__: Any) -> Any:
            return self.encoder

        def prepare_inputs_for_generation(self, ids: Any, **kwargs: Any) -> dict[str, Any]:
            return {"decoder_input_ids": ids, "encoder_outputs": kwargs["encoder_outputs"]}

        def forward(self, decoder_input_ids: Any = None, **_: Any) -> Any:
            case = Case(self.config.vocab_size, self.seed)
            rows = [logits_of(case, history) for history in decoder_input_ids.tolist()]
            return Seq2SeqLMOutput(logits=torch.from_numpy(np.stack(rows))[:, None])

    config = TableConfig(
        is_encoder_decoder=True, vocab_size=vocab, decoder_start_token_id=START, pad_token_id=EOS
    )
    return TableModel(config).eval()


def whole(hypotheses: list[Hypothesis]) -> list[tuple[Ids, float]]:
    """(tokens after the start token, end token included, score): what `reference` gives."""
    return [(h.tokens + [h.end_token] * (h.end_token >= 0), h.score) for h in hypotheses]


def reference(case: Case) -> list[tuple[Ids, float | None]]:
    """What transformers' generate() returns; greedy search has no scores.

    Beams that it could not fill are left out: it returns them with -1e9 in their scores.
    """
    import torch
    from transformers import GenerationConfig

    model = reference_model(case.vocab)
    model.seed = case.seed
    options = {"eos_token_id": [EOS], "max_new_tokens": 20, **case.options}
    if not options["eos_token_id"]:
        options["eos_token_id"] = None
    n_end = len(case.prefix) + options["max_new_tokens"]
    config = GenerationConfig(
        **options, pad_token_id=case.vocab + 1, decoder_start_token_id=START, bos_token_id=START,
        use_cache=False, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    with torch.no_grad():
        output = model.generate(
            torch.tensor([case.source]),
            generation_config=config,
            decoder_input_ids=torch.tensor([case.prefix]),
        )
    found: list[tuple[Ids, float | None]] = []
    for i, sequence in enumerate(output.sequences.tolist()):
        tokens = [token for token in sequence[1:n_end] if token < case.vocab]
        score = float(output.sequences_scores[i]) if "sequences_scores" in output else None
        if score is None or score > -1e5:
            found.append((tokens, score))
    return found
