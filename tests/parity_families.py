"""Random checkpoints of every encoder-decoder family, made by transformers; see parity.py.

`tests/fixtures/families/make_goldens.py` writes those of `SMALL`; the live suite makes all of them.
To add a family: shapes in family_shapes.py, and where its random weights need care, a case in
`randomize`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import parity
from family_shapes import LARGE, MARIAN, SMALL, Shape

__all__ = ["LARGE", "MARIAN", "SMALL"]  # to those who use the rest

FIXTURES = Path(__file__).parent / "fixtures" / "families"


GOLDEN_OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam4": {"num_beams": 4},
    "beam4-all": {
        "num_beams": 4,
        "num_return_sequences": 3,
        "no_repeat_ngram_size": 3,
        "length_penalty": 0.7,
        "min_new_tokens": 4,
    },
}


def sources(shape: Shape, n: int, seed: int = 1) -> list[list[int]]:
    """n sources of 1 to 24 tokens, end token included; ids 0 to 3 are special in every family."""
    rng = random.Random(f"{shape.name} {seed}")
    return [
        [rng.randrange(4, shape.vocab) for _ in range(rng.randrange(0, 24))] + [shape.eos]
        for _ in range(n)
    ]


def target(shape: Shape, i: int) -> list[int]:
    """The i-th target for teacher forcing: a few tokens, then the end token."""
    rng = random.Random(f"{shape.name} target {i}")
    return [rng.randrange(4, shape.vocab) for _ in range(rng.randrange(12))] + [shape.eos]


def decoding(shape: Shape, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with what the shape's family needs."""
    return {"eos_token_id": shape.eos, **shape.options, **options}


def make_checkpoint(shape: Shape, path: Path) -> None:
    """Write a random model as a Hugging Face directory without tokenizer files."""
    import torch
    import transformers

    torch.manual_seed(len(shape.name) + shape.vocab)
    model_class = getattr(transformers, shape.model)
    model = model_class(model_class.config_class(**shape.config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            randomize(name, parameter, shape)
        if hasattr(model, "final_logits_bias"):
            _tune_end(model, shape)
    if shape.untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) / 4)
    model.save_pretrained(path)
    if "tie_word_embeddings" in shape.config:  # T5's config class forgets what it was told
        file = path / "config.json"
        config = json.loads(file.read_text("utf-8"))
        config["tie_word_embeddings"] = shape.config["tie_word_embeddings"]
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def randomize(name: str, parameter: Any, shape: Shape) -> None:
    import torch

    noise = torch.randn_like(parameter)
    if "embed_positions" in name or "wpe" in name:
        if parameter.requires_grad:  # learned
            parameter.copy_(0.5 * noise)
    elif "relative_attention_bias" in name:
        parameter.copy_(noise)
    elif "norm.weight" in name and ".post_" in name and "T5Gemma" in shape.model:
        parameter.copy_(2 + 0.1 * noise)  # blocks that outweigh the embeddings
    elif "norm" in name or "ln_" in name:
        parameter.add_(0.1 * noise)
    elif name.endswith("bias"):
        parameter.copy_(0.1 * noise)
    elif "embed" in name or "wte" in name or "shared" in name or "lm_head" in name:
        parameter.copy_(noise * shape.spread / parameter.shape[-1] ** 0.5)
    else:  # strong feed-forward layers, or the same token comes again and again
        gain = (
            3.0
            if any(w in name for w in ("fc", "Dense", "mlp"))
            else 1.5
            if "q_proj" in name
            else 0.8
        )
        gain *= 0.4 if name.endswith("Attention.q.weight") else 1.0  # scores are not scaled
        gain *= 1.5 if "encoder_attn" in name else 1.0
        parameter.copy_(noise * gain / parameter.shape[1] ** 0.5)


def _tune_end(model: Any, shape: Shape) -> None:
    """A bias with which the end token wins about one step in eight, so that lengths differ."""
    import torch

    model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias) * 0.5)
    ids = torch.randint(4, shape.vocab, (64, 12))
    logits = model(input_ids=ids, decoder_input_ids=ids.flip(0)).logits.flatten(0, 1)
    margin = logits.max(-1).values - logits[:, shape.eos]
    model.final_logits_bias[0, shape.eos] += margin.quantile(0.12)


def open_reference(shape: Shape, path: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    model = getattr(transformers, shape.model).from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def reference_generate(
    model: Any, shape: Shape, rows: list[list[int]], options: dict[str, Any]
) -> list[parity.Hypotheses]:
    """As parity.reference_generate, with the options that the family needs; of a decoder alone what
    it continues each row with."""
    if not shape.continues:
        return parity.reference_generate(model, rows, decoding(shape, options))
    return [_reference_continue(model, row, decoding(shape, options)) for row in rows]


def _reference_continue(model: Any, row: list[int], options: dict[str, Any]) -> parity.Hypotheses:
    import torch

    beams = options.get("num_beams", 1)
    if beams > 1:
        options = {"length_penalty": 1.0, "early_stopping": False, **options}
    with torch.no_grad():
        generated = model.generate(
            input_ids=torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            max_new_tokens=parity.MAX_NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            pad_token_id=0,
            **options,
        )
    end = options["eos_token_id"]
    hypotheses = []
    for i, ids in enumerate(generated.sequences[:, len(row) :].tolist()):
        if beams > 1:
            score = generated.sequences_scores[i].item()
        else:
            chosen = zip(generated.scores, ids, strict=True)
            logprobs = [step.log_softmax(-1)[0, token].item() for step, token in chosen]
            score = sum(logprobs) / len(logprobs)
        hypotheses.append((ids[: ids.index(end)] if end in ids else ids, score))
    return hypotheses


Arrays = dict[str, Any]


def reference_forward(model: Any, shape: Shape, source: list[int], target: list[int]) -> Arrays:
    """Encoder output, if there is an encoder, and logits under teacher forcing; of a decoder alone
    the logits at every token of prompt and target."""
    import torch

    if shape.continues:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*source, *target]])).logits[0].numpy()
        return {"logits": logits}
    encoder, logits = parity.reference_forward(model, source, target)
    return {"encoder": encoder, "logits": logits}


def engine_forward(model: Any, shape: Shape, source: list[int], target: list[int]) -> Arrays:
    """As reference_forward."""
    trace = model.trace(source, target)
    arrays = {"logits": trace["decoder.logits"]}
    if not shape.continues:
        arrays["encoder"] = trace["encoder.output"]
    return arrays
