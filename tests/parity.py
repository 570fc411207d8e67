"""What both parity suites share: random checkpoints, sources, decoding options, the reference.

`make_goldens.py` writes what `reference_*` returns for the small checkpoints to
tests/fixtures/parity; `test_parity.py` compares the engine with those files; `test_parity_live.py`
compares it with transformers itself on every checkpoint.  Only functions that need torch import it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import MarianMTModel

    import s2s_infer

Hypotheses = list[tuple[list[int], float]]
"""Of one source, best first: (ids without start and end token, score)."""

FIXTURES = Path(__file__).parent / "fixtures" / "parity"
EOS = 0
TOLERANCE = 1e-4
TIE = 1e-5  # two hypotheses whose scores are nearer than this may change places


@dataclass(frozen=True)
class Shape:
    """One random MarianMTModel; the defaults are small enough to be committed."""

    name: str
    vocab: int = 50
    d_model: int = 32
    heads: tuple[int, int] = (2, 2)  # encoder, decoder
    layers: tuple[int, int] = (2, 2)
    ffn: tuple[int, int] = (48, 48)
    activation: str = "relu"
    scale_embedding: bool = True
    tied: bool = True  # input and output embeddings are one matrix
    shared: bool = True  # source and target vocabulary are one
    target_vocab: int | None = None
    spread: float = 2.5  # standard deviation of the logits: wide, so that near-ties are rare
    positions: int = 64

    @property
    def n_target(self) -> int:
        return self.target_vocab or self.vocab


SMALL = (
    Shape("relu-tied"),
    Shape("silu-3x20", vocab=70, d_model=60, heads=(3, 3), layers=(1, 2), activation="swish"),
    Shape(
        "gelu-untied",
        vocab=61,
        target_vocab=83,
        d_model=24,
        heads=(2, 3),
        layers=(2, 1),
        ffn=(40, 72),
        activation="gelu",
        scale_embedding=False,
        tied=False,
        shared=False,
    ),
)
LARGE = (
    Shape("wide-vocab", vocab=2000, d_model=64, heads=(4, 8), layers=(3, 1), ffn=(128, 96)),
    Shape(
        "deep-1x16",
        vocab=300,
        d_model=16,
        heads=(1, 1),
        layers=(6, 2),
        ffn=(64, 17),
        activation="gelu",
    ),
    Shape(
        "d-144",
        vocab=517,
        d_model=144,
        heads=(3, 9),
        layers=(2, 2),
        ffn=(200, 31),
        activation="swish",
    ),
    Shape("unscaled-5x8", vocab=97, d_model=40, heads=(5, 5), ffn=(33, 160), scale_embedding=False),
)

GRID: dict[str, dict[str, Any]] = {
    f"beam4-lp{length_penalty}-{early_stopping}": {
        "num_beams": 4,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    for length_penalty, early_stopping in itertools.product(
        (0.0, 0.6, 1.0, 2.0), (True, False, "never")
    )
}
FEATURES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy-no-repeat-2": {"no_repeat_ngram_size": 2},
    "greedy-repetition-1.3": {"repetition_penalty": 1.3},
    "beam4-no-repeat-3": {"num_beams": 4, "no_repeat_ngram_size": 3},
    "beam4-encoder-no-repeat-2": {"num_beams": 4, "encoder_no_repeat_ngram_size": 2},
    "beam4-repetition-1.2": {"num_beams": 4, "repetition_penalty": 1.2},
    "beam4-bad-words": {"num_beams": 4, "bad_words_ids": [[5], [7, 9], [11, 12, 13]]},
    "beam4-forced-bos-eos": {"num_beams": 4, "forced_bos_token_id": 6, "forced_eos_token_id": EOS},
    "beam4-suppress": {
        "num_beams": 4,
        "suppress_tokens": [3, 4, 8],
        "begin_suppress_tokens": [EOS, 10],
    },
    "beam4-min-new-8": {"num_beams": 4, "min_new_tokens": 8},
    "beam4-return-4": {"num_beams": 4, "num_return_sequences": 4},
    "beam3-two-eos": {"num_beams": 3, "eos_token_id": [EOS, 2]},
    "beam5-all": {
        "num_beams": 5,
        "num_return_sequences": 2,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.1,
        "min_new_tokens": 3,
        "length_penalty": 0.8,
    },
}
OPTIONS = GRID | FEATURES
PREFIX_OPTIONS = {name: OPTIONS[name] for name in ("greedy", "beam4-lp0.6-False", "beam5-all")}
PREFIXES = ([4], [9, 3, 17])
MAX_NEW_TOKENS = 16


def sources(shape: Shape, n: int, seed: int = 1) -> list[list[int]]:
    """n sources of 1 to 24 tokens, end token included, as a Marian tokenizer would give them."""
    rng = random.Random(f"{shape.name} {seed}")
    return [
        [rng.randrange(1, shape.vocab - 1) for _ in range(rng.randrange(0, 24))] + [EOS]
        for _ in range(n)
    ]


def target(shape: Shape, i: int) -> list[int]:
    """The i-th target for teacher forcing: a few tokens, then the end token."""
    rng = random.Random(f"{shape.name} target {i}")
    return [rng.randrange(1, shape.n_target - 1) for _ in range(rng.randrange(12))] + [EOS]


# ---- The reference -------------------------------------------------------------------------------


def make_checkpoint(shape: Shape, path: Path) -> None:
    """Write a random model as a Hugging Face directory without tokenizer files."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    pad = shape.vocab - 1
    config = MarianConfig(
        vocab_size=shape.vocab,
        decoder_vocab_size=shape.n_target,
        d_model=shape.d_model,
        encoder_attention_heads=shape.heads[0],
        decoder_attention_heads=shape.heads[1],
        encoder_layers=shape.layers[0],
        decoder_layers=shape.layers[1],
        encoder_ffn_dim=shape.ffn[0],
        decoder_ffn_dim=shape.ffn[1],
        activation_function=shape.activation,
        scale_embedding=shape.scale_embedding,
        max_position_embeddings=shape.positions,
        share_encoder_decoder_embeddings=shape.shared,
        tie_word_embeddings=shape.tied,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=EOS,
        forced_eos_token_id=None,
    )
    torch.manual_seed(len(shape.name) + shape.vocab)
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" in name:
                continue
            noise = torch.randn_like(parameter)
            if "norm" in name:
                parameter.add_(0.1 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "embed" in name or "shared" in name or "lm_head" in name:
                parameter.copy_(noise * shape.spread / shape.d_model**0.5)
            else:  # strong feed-forward layers, or the same token comes again and again
                gain = 3.0 if "fc" in name else 1.5 if "q_proj" in name else 0.8
                gain *= 1.5 if "encoder_attn" in name else 1.0
                parameter.copy_(noise * gain / parameter.shape[1] ** 0.5)
        model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias) * 0.5)
        model.final_logits_bias[0, pad] = -100.0
        # An end token that wins about one step in eight, so that lengths differ.
        ids = torch.randint(1, min(shape.vocab, shape.n_target) - 1, (64, 12))
        logits = model(input_ids=ids, decoder_input_ids=ids.flip(0)).logits.flatten(0, 1)
        margin = logits.max(-1).values - logits[:, EOS]
        model.final_logits_bias[0, EOS] += margin.quantile(0.12)
    model.generation_config.bad_words_ids = None
    model.save_pretrained(path)


def open_reference(path: Path) -> MarianMTModel:
    import torch
    from transformers import MarianMTModel

    torch.set_num_threads(1)
    return MarianMTModel.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def reference_generate(
    model: MarianMTModel,
    sources: list[list[int]],
    options: dict[str, Any],
    prefix: list[int] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Hypotheses]:
    """For each source its hypotheses, best first: (ids without start and end token, score).

    The score of greedy search, which transformers does not give, is the mean log-probability.
    """
    import torch

    start = model.config.decoder_start_token_id
    options = {"length_penalty": 1.0, "early_stopping": False, **options}
    ends = options.get("eos_token_id", EOS)
    ends = ends if isinstance(ends, list) else [ends]
    if options.get("num_beams", 1) == 1:  # transformers warns about options that do not matter
        options = {
            k: v for k, v in options.items() if k not in ("length_penalty", "early_stopping")
        }
    output = []
    for source in sources:  # one by one: in a batch, its early stopping looks at the neighbours
        with torch.no_grad():
            generated = model.generate(
                input_ids=torch.tensor([source]),
                attention_mask=torch.ones(1, len(source), dtype=torch.long),
                decoder_input_ids=torch.tensor([[start, *(prefix or [])]]),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
            n_prefix = 1 + len(prefix or [])
            if options.get("num_beams", 1) > 1:
                scores = generated.sequences_scores.tolist()
            else:
                chosen = generated.sequences[0, n_prefix:]
                logprobs = [
                    step.log_softmax(-1)[0, i].item()
                    for step, i in zip(generated.scores, chosen, strict=True)
                ]
                scores = [sum(logprobs) / len(logprobs)]
        hypotheses = []
        for ids, score in zip(generated.sequences.tolist(), scores, strict=True):
            ids = ids[1:]
            end = next((i for i, t in enumerate(ids) if t in ends and i >= n_prefix - 1), len(ids))
            hypotheses.append((ids[:end], score))
        output.append(hypotheses)
    return output


def reference_forward(
    model: MarianMTModel, source: list[int], target: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Encoder output [n_source, d_model] and logits [1 + n_target, vocab] under teacher forcing."""
    import torch

    ids = torch.tensor([source])
    read = torch.tensor([[model.config.decoder_start_token_id, *target]])
    with torch.no_grad():  # with masks: some families make them of the padding token's id
        output = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            decoder_input_ids=read,
            decoder_attention_mask=torch.ones_like(read),
        )
    return output.encoder_last_hidden_state[0].numpy(), output.logits[0].numpy()


# ---- The engine ----------------------------------------------------------------------------------


def engine_generate(
    model: s2s_infer.Model,
    sources: list[list[int]],
    options: dict[str, Any],
    prefix: list[int] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Hypotheses]:
    """As reference_generate."""
    results = model.generate_ids(sources, prefix=prefix, max_new_tokens=max_new_tokens, **options)
    return [[(list(h.token_ids), h.score) for h in r.hypotheses] for r in results]


def engine_forward(
    model: s2s_infer.Model, source: list[int], target: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """As reference_forward."""
    trace = model.trace(source, target)
    return trace["encoder.output"], trace["decoder.logits"]


# ---- Comparison ----------------------------------------------------------------------------------


def compare(
    found: list[Hypotheses],
    expected: list[Hypotheses],
    what: str,
) -> int:
    """Assert equal ids and near scores; returns how many hypotheses differ by a tie alone."""
    ties = 0
    assert len(found) == len(expected), what
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert len(ours) == len(theirs), f"{what}, source {i}: number of hypotheses"
        for j, ((ids, score), (reference_ids, reference_score)) in enumerate(
            zip(ours, theirs, strict=True)
        ):
            where = f"{what}, source {i}, hypothesis {j}"
            if ids != reference_ids and abs(score - reference_score) < TIE:
                ties += 1
                continue
            assert ids == reference_ids, f"{where}: scores {score} and {reference_score}"
            assert abs(score - reference_score) < TOLERANCE, where
    return ties
