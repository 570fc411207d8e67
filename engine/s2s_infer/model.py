"""The facade: a model and what can be asked of it.  `opening.load` makes one."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from . import _core, batching, encoding
from .batching import Job
from .calls import Call, call_of
from .config import ModelConfig
from .engine import NO_TEXT_OPTIONS, Engine, TextOptions
from .errors import OptionError, S2SError
from .generation import GenerationConfig
from .inputs import as_list, checked_id_rows, checked_ids, checked_text
from .isa import choose_isa
from .kinds import as_integer
from .loaders.checkpoint import Checkpoint
from .prompts import Prompt
from .readers import Reader, as_reader
from .results import Classification, GenerationResult, MaskCandidate, ScoreResult
from .spans import FilledSpans, fill, sentinels
from .special_tokens import SpecialTokens
from .streaming import stream
from .threads import choose_threads, shared_pool

if TYPE_CHECKING:
    from queue import Queue, SimpleQueue

    import numpy.typing as npt

    from .tokenizer import Tokenizer


class Model:
    """A Transformer, ready to run.  Made by `load`.

    Decoding options (``**options``) are the fields of `GenerationConfig`, with the names and
    meanings of Hugging Face's; what is not given has the checkpoint's default.  A wrong name or
    value raises OptionError, an input that is longer than the model's positions InputTooLongError
    (see ``truncate``).  Empty or blank texts give empty results, without running; a decoder alone
    continues a blank text as any other, and an empty one from its beginning token.

    ``to`` names the target language of a model that has several; without it, a Chinese-English
    model takes the other language than the text's.  ``source_lang`` names the texts' language,
    where a model must know it (mBART, M2M100, NLLB).  ``task`` is one of the checkpoint's tasks
    (task_specific_params of config.json: T5's "summarization"): its prefix goes before every text,
    its decoding defaults before the checkpoint's.  `info` says what is added to a text, and why.

    A running call ends at Ctrl-C, a stream and an iterator also at their ``close()``, which cancels
    what is not done.  One Model may be used from several threads at once.  It survives a fork, and
    a pickle of it opens the same file again.

    A ``*.s2s`` file is mapped, not copied.  Written to in place while a model uses it, it makes the
    next call a ModelError (a call that is running may give wrong results, or, where the file became
    shorter, end the process).  Put a new file in its place by renaming, as `convert` does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        threads: int | None = None,
        isa: str | None = None,
        kv_dtype: str | None = None,
    ) -> None:
        """checkpoint: as `s2s_infer.loaders.load_checkpoint` gives it.  `load` is the usual way."""
        n_threads, threads_reason = choose_threads(threads)
        isa, isa_reason = choose_isa(isa)
        self._checkpoint = checkpoint
        self._pool = shared_pool(n_threads)
        core = _core.Model(checkpoint.config.to_core(), checkpoint.tensors, isa, kv_dtype)
        self._engine: Engine | None = Engine(checkpoint, core, self._pool)
        self._calls: dict[Any, Call] = {}  # of the engine, for `call_of`
        self._reasons = {"threads": threads_reason, "isa": isa_reason}
        self._reopen: tuple[Path, str, int | None, str | None, str | None] | None = None

    # ---- text in, text out ----

    @overload
    def translate(self, text: str, to: str | None = None, **options: Any) -> str: ...
    @overload
    def translate(
        self, text: Iterable[str], to: str | None = None, **options: Any
    ) -> list[str]: ...
    def translate(
        self, text: str | Iterable[str], to: str | None = None, **options: Any
    ) -> str | list[str]:
        """Translate (or summarise, or rewrite: what the model does) one text or several.

        Returns a string for a string, else a list in the order of the texts.  `generate` says more:
        whether an output ended by itself or at a limit, scores, ids, other hypotheses.
        """
        engine = self._engine
        if engine is not None:  # else generate says that the model is closed
            engine.need_encoder("translate")
        options = {"return_scores": False, **options}
        if isinstance(text, str):
            return self.generate([text], to=to, **options)[0].text or ""
        return [result.text or "" for result in self.generate(text, to=to, **options)]

    def generate(
        self,
        texts: str | Iterable[str],
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        prompt: Prompt | str | None = None,
        target_prefix: str | Sequence[str] | None = None,
        **options: Any,
    ) -> list[GenerationResult]:
        """One GenerationResult for each text, in order.

        A model that is a decoder alone continues each text: the result is what comes after it.
        prompt: what all texts begin with, see `prompt`; a text is read once for this call.
        target_prefix: text that every output (or, as a list, each one) begins with.
        """
        texts = [texts] if isinstance(texts, str) else as_list("texts", texts)
        if target_prefix is None or isinstance(target_prefix, str):
            prefixes = [target_prefix] * len(texts)
        else:
            prefixes = as_list("target_prefix", target_prefix)
            if len(prefixes) != len(texts):
                raise OptionError(
                    f"target_prefix has {len(prefixes)} entries for {len(texts)} texts."
                )
        call = self._call(options, TextOptions(to, source_lang, task), prompt)
        jobs = [
            call.input_job(
                checked_text(f"texts[{i}]", text),
                None if prefix is None else checked_text("target_prefix", prefix),
                f"texts[{i}]",
            )
            for i, (text, prefix) in enumerate(zip(texts, prefixes, strict=True))
        ]
        return call.run_all(jobs)

    def iterate(
        self,
        texts: Iterable[str | Sequence[int]] | Queue[Any] | SimpleQueue[Any] | Reader[Any],
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        prompt: Prompt | str | Sequence[int] | None = None,
        target_prefix: str | Sequence[int] | None = None,
        window: int = batching.WINDOW,
        **options: Any,
    ) -> Generator[GenerationResult, None, None]:
        """As generate, for any number of texts in flat memory: results in order, as they are ready.

        texts: strings, or lists of token ids as generate_ids takes them; from an iterable, or from
        a queue that other threads fill, up to None: a text from a queue starts as it comes, beside
        those that run.  window: texts that are read before the first of them runs.  An iterator
        that waits for its next text delays the results before it; with window=1 it is asked for a
        text only once they were given.  A wrong text raises its error after the results of the
        texts before it.
        """
        call = self._call(options, TextOptions(to, source_lang, task), prompt)
        reader = as_reader(texts)
        if (as_integer(window) or 0) < 1:
            raise OptionError(f"window must be an integer of at least 1, not {window!r}.")
        index = itertools.count()

        def prepare(text: str | Sequence[int]) -> Job:
            return call.input_job(text, target_prefix, reader.where(next(index)))

        return call.run(reader, prepare, window)

    def stream(
        self,
        text: str,
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        prompt: Prompt | str | None = None,
        target_prefix: str | Sequence[int] | None = None,
        **options: Any,
    ) -> Generator[str, None, GenerationResult]:
        """Yield the output piece by piece; the pieces joined are the final text exactly.

        A beam search yields what all its beams agree on so far.  The generator's return value is
        the GenerationResult; closing it cancels the request.
        """
        call = self._call(options, TextOptions(to, source_lang, task), prompt)
        job = call.input_job(checked_text("text", text), target_prefix, "text")
        return stream(call, job)

    def fill_spans(self, text: str, **options: Any) -> FilledSpans:
        """Fill the sentinels <extra_id_0>, <extra_id_1>, ... of a text (T5 and its kin).

        Raises UnsupportedError where the model has no sentinels, OptionError for a text without.
        """
        tokenizer = self.tokenizer
        sentinels(checked_text("text", text), tokenizer)
        return fill(text, self.generate([text], **options)[0], tokenizer)

    def prompt(self, prompt: str | Sequence[int]) -> Prompt:
        """Read what many inputs of a decoder alone begin with, a text or token ids, once.

        Calls that are given it as ``prompt`` continue it with each of their inputs.  Their results
        are those of the whole inputs, to the last bit, but what was read is not computed again:
        rows, beams and requests share its keys and values (`GenerationResult.n_reused` positions).
        Raises OptionError for an empty prompt and for a model that has an encoder.
        """
        return Prompt(self._open(), prompt)

    # ---- ids in, ids out ----

    def generate_ids(
        self,
        sources: Iterable[Sequence[int]],
        *,
        prefix: Sequence[int] | Sequence[Sequence[int]] | None = None,
        prompt: Prompt | Sequence[int] | None = None,
        **options: Any,
    ) -> list[GenerationResult]:
        """As generate, from token ids; works without tokenizer files.

        sources: ids of each input as the model was trained on them, end token (and language token)
        included.  prefix: ids that every output (or, as a list of lists, each one) begins with,
        start token left out.  prompt: as for generate, of ids.
        """
        rows = checked_id_rows("sources", sources, self.config.source_vocab_size)
        vocab_size = self.config.vocab_size
        values = [] if prefix is None else as_list("prefix", prefix)
        if values and isinstance(values[0], (Sequence, np.ndarray)):
            prefixes = checked_id_rows("prefix", values, vocab_size)
            if len(prefixes) != len(rows):
                raise OptionError(f"prefix has {len(prefixes)} rows for {len(rows)} sources.")
        else:
            prefixes = [checked_ids("prefix", values, vocab_size)] * len(rows)
        call = self._call(options, NO_TEXT_OPTIONS, prompt)
        jobs = [
            call.job(list(call.whole(row)), ids, f"sources[{i}]")
            for i, (row, ids) in enumerate(zip(rows, prefixes, strict=True))
        ]
        return call.run_all(jobs)

    # ---- scores, hidden states, glass box ----

    def score(
        self,
        sources: str | Iterable[str] | Iterable[Sequence[int]],
        targets: str | Iterable[str] | Iterable[Sequence[int]],
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        prompt: Prompt | str | Sequence[int] | None = None,
        length_penalty: float | None = None,
        truncate: bool = False,
    ) -> list[ScoreResult]:
        """Log-probability of each target, with its end token, given its source (teacher forcing).

        sources, targets: texts or lists of token ids, one target for each source; target ids
        without start and end token.  length_penalty: as in GenerationConfig; None: the
        checkpoint's.  prompt: as for generate.

        These are the model's own probabilities: what decoding rules out or makes less probable
        (bad_words_ids, suppress_tokens, repetition_penalty and the like) is not applied, as in the
        loss that transformers computes for labels.
        """
        source_list = [sources] if isinstance(sources, str) else as_list("sources", sources)
        target_list = [targets] if isinstance(targets, str) else as_list("targets", targets)
        if len(source_list) != len(target_list):
            raise OptionError(
                f"{len(source_list)} sources but {len(target_list)} targets were given."
            )
        options: dict[str, Any] = {"truncate": truncate}
        if length_penalty is not None:
            options["length_penalty"] = length_penalty
        call = self._call(options, TextOptions(to, source_lang, task), prompt)
        jobs = [
            call.score_job(
                call.source(call.whole(source), f"sources[{i}]"),
                call.target(target, f"targets[{i}]"),
                f"sources[{i}]",
            )
            for i, (source, target) in enumerate(zip(source_list, target_list, strict=True))
        ]
        return call.run_scores(jobs)

    def encode(
        self,
        texts: str | tuple[str, str] | Iterable[str | tuple[str, str]],
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        pooling: str | None = None,
        normalize: bool = False,
        truncate: bool = False,
    ) -> Any:
        """What the encoder makes of one text or several, of a pair (text, text) as of one text.

        pooling: None: hidden states, an array [n_tokens, d_model] for each text; "mean": their
        mean, "cls": those of the first token, "pooler": these through the checkpoint's pooler,
        "auto": what modules.json of a checkpoint of sentence-transformers says (pooling, length,
        most tokens), "mean" where there is none: a vector for each text.  normalize: divide each
        vector by its Euclidean length.

        Returns for one text one array, else a list of hidden states or the vectors [n, d_model].
        Raises UnsupportedError where the model has no classification token or pooler, or a
        modules.json that asks for more.
        """
        engine = self._open()
        engine.need_encoder("encode")
        limit = 0
        if pooling is not None:
            rule = engine.checkpoint.vectors
            if pooling == "auto" and rule is not None:
                limit = rule.max_tokens
            pooling, normalize = encoding.checked_pooling(engine, pooling, normalize)
        elif normalize:
            raise OptionError("normalize is for vectors: give pooling too.")
        how = TextOptions(to, source_lang, task)
        inputs, is_one = encoding.read_inputs(engine, texts, how, truncate, limit)
        result: Any
        if pooling is None:
            result = [array for _, some in encoding.hidden_states(engine, inputs) for array in some]
        else:
            result = encoding.pooled(engine, inputs, pooling, normalize)
        return result[0] if is_one else result

    def encode_ids(
        self, sources: Iterable[Sequence[int]], *, truncate: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Hidden states [n_tokens, d_model] from token ids.  An empty source gives [0, d_model]."""
        engine = self._open()
        engine.need_encoder("encode_ids")
        rows = [
            engine.fit_source(row, truncate, f"sources[{i}]")[0]
            for i, row in enumerate(
                checked_id_rows("sources", sources, self.config.source_vocab_size)
            )
        ]
        filled = [encoding.Input(row, None) for row in rows if row]
        states = (array for _, some in encoding.hidden_states(engine, filled) for array in some)
        empty = np.empty((0, self.config.d_model), np.float32)
        return [next(states) if row else empty for row in rows]

    @overload
    def fill_mask(  # type: ignore[overload-overlap]
        self, text: str, *, top_k: int = 5, truncate: bool = False
    ) -> list[list[MaskCandidate]]: ...
    @overload
    def fill_mask(
        self, text: Iterable[str], *, top_k: int = 5, truncate: bool = False
    ) -> list[list[list[MaskCandidate]]]: ...
    def fill_mask(
        self, text: str | Iterable[str], *, top_k: int = 5, truncate: bool = False
    ) -> Any:
        """The most probable tokens for each mask token ("[MASK]", "<mask>") of a text.

        Returns for each mask a list of top_k MaskCandidate, best first; for several texts a list of
        those.  Raises UnsupportedError where the model has no masked-language-model head,
        OptionError for a text without mask.
        """
        engine = self._open()
        encoding.check_head(engine, "masked_lm")
        if (as_integer(top_k) or 0) < 1:
            raise OptionError(f"top_k must be an integer of at least 1, not {top_k!r}.")
        inputs, is_one = encoding.read_inputs(engine, text, NO_TEXT_OPTIONS, truncate)
        encoding.check_masks(engine, inputs)
        result = list(encoding.fill_masks(engine, inputs, top_k))
        return result[0] if is_one else result

    @overload
    def classify(self, texts: str | tuple[str, str], *, truncate: bool = ...) -> Classification: ...  # type: ignore[overload-overlap]
    @overload
    def classify(
        self, texts: Iterable[str | tuple[str, str]], *, truncate: bool = ...
    ) -> list[Classification]: ...
    def classify(
        self,
        texts: str | tuple[str, str] | Iterable[str | tuple[str, str]],
        *,
        truncate: bool = False,
    ) -> Any:
        """The label, with scores, of a text, of a pair (text, text), or of each of several.

        Scores are probabilities: softmax, or for a multi-label checkpoint a sigmoid for each label.
        Raises UnsupportedError where the model has no classification head.
        """
        engine = self._open()
        encoding.check_head(engine, "classifier")
        inputs, is_one = encoding.read_inputs(engine, texts, NO_TEXT_OPTIONS, truncate)
        result = list(encoding.classify(engine, inputs))
        return result[0] if is_one else result

    def trace(
        self,
        text: str | Sequence[int],
        target: str | Sequence[int] | None = None,
        *,
        to: str | None = None,
        source_lang: str | None = None,
        task: str | None = None,
        **options: Any,
    ) -> dict[str, npt.NDArray[Any]]:
        """Everything the model computes for one input, by name: the glass box.

        text: a text or source ids.  target: a text or ids to force (teacher forcing); None: greedy
        search.  ``options`` may set limits and processors, but not num_beams or do_sample. Names
        are those of ``csrc/s2s.h``: "encoder.0.self_attn.weights" [heads, n, n] and so on; arrays
        of the decoder have the steps as their first dimension, and attention weights [n_steps,
        heads, n] are zero where a step could not see.  "source.ids", "source.tokens", "target.ids"
        (start token first: what the decoder read at each step), "target.tokens", "output.ids" (what
        it was to give at each step) and "output.logprobs" say what went in and out.
        """
        from .tracing import trace

        return trace(self._open(), text, target, TextOptions(to, source_lang, task), options)

    # ---- what it is ----

    @property
    def config(self) -> ModelConfig:
        """The ModelConfig: what the model computes."""
        return self._checkpoint.config

    @property
    def generation_config(self) -> GenerationConfig:
        """The checkpoint's defaults of the decoding options."""
        return self._checkpoint.generation

    @property
    def special_tokens(self) -> SpecialTokens:
        """The SpecialTokens: token ids by role."""
        return self._checkpoint.special_tokens

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes that ``to`` accepts; empty for a model of one target language."""
        tokenizer = self._checkpoint.tokenizer
        return () if tokenizer is None else tuple(tokenizer.languages)

    @property
    def tokenizer(self) -> Tokenizer:
        """Text <-> ids.  Raises ModelError naming the missing file if the checkpoint has none."""
        return self._open().tokenizer

    def info(self) -> dict[str, Any]:
        """Sizes, special tokens, defaults, threads, SIMD level: in plain JSON types."""
        from .description import describe

        return describe(self._checkpoint, self._open().core, self._pool, self._reasons)

    def close(self) -> None:
        """Let go of the weights.  Running calls end normally; later ones raise S2SError."""
        self._engine = None
        self._calls = {}

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else self._checkpoint.dtype
        return f"<s2s_infer.Model {self._checkpoint.path} ({state})>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            raise TypeError("only a Model that was made by s2s_infer.load can be pickled")
        from .opening import reopen

        return reopen, self._reopen

    # ---- inside ----

    def _call(
        self,
        options: dict[str, Any],
        texts: TextOptions,
        prompt: Prompt | str | Sequence[int] | None,
    ) -> Call:
        self._pool.wake()  # while the inputs become ids
        calls = self._calls  # before _open: once the model is closed, nobody reads what is kept
        return call_of(calls, self._open(), options, texts, prompt)

    def _open(self) -> Engine:
        engine = self._engine  # read once: another thread may close the model
        if engine is None:
            raise S2SError("this model was closed.")
        if self._checkpoint.file is not None:
            self._checkpoint.file.check_unchanged()
        return engine
