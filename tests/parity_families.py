"""Random checkpoints of every encoder-decoder family, made by transformers; see parity.py.

`tests/fixtures/families/make_goldens.py` writes those of `SMALL`; the live suite makes all of them.
To add a family: shapes, and where its random weights need care, a case in `randomize`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parity

FIXTURES = Path(__file__).parent / "fixtures" / "families"


@dataclass(frozen=True)
class Shape:
    """One random checkpoint."""

    name: str
    model: str
    """Class of transformers."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of its config class, beside those of `COMMON`."""
    spread: float = 2.5
    """Standard deviation of the logits: wide, so that near-ties are rare."""
    eos: int = 2
    untied: bool = False
    """The output matrix is not the embedding, in a family whose config class always ties them."""
    options: dict[str, Any] = field(default_factory=dict)
    """Decoding options that the family needs: forced_bos_token_id and the like."""

    continues: bool = False
    """A decoder alone: sources are prompts."""

    @property
    def vocab(self) -> int:
        return int({**COMMON, **self.config}["vocab_size"])


COMMON: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}


def _shape(name: str, model: str, config: dict[str, Any], **more: Any) -> Shape:
    return Shape(name, model, {**COMMON, **config}, **more)


_ODD = {  # 3 heads of 20, 5 heads of 12, layers unlike
    "vocab_size": 87,
    "d_model": 60,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 33,
    "decoder_ffn_dim": 70,
}
_WIDE = {"vocab_size": 1500, "d_model": 64, "encoder_attention_heads": 1, "decoder_layers": 1}
# transformers gives a padding token in the midst of an output no position (M2M100): rule it out.
_NO_PADDING: dict[str, Any] = {"suppress_tokens": [1]}
_BART, _MBART = "BartForConditionalGeneration", "MBartForConditionalGeneration"
_M2M, _PEGASUS = "M2M100ForConditionalGeneration", "PegasusForConditionalGeneration"


def _t5(name: str, model: str, **config: Any) -> Shape:
    common = {
        "vocab_size": 60,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
        "decoder_start_token_id": 0,
    }
    untied = config.pop("untied", False)
    return Shape(
        name,
        f"{model}ForConditionalGeneration",
        {**common, **config},
        eos=1,
        options={"suppress_tokens": [0]},
        untied=untied,
    )


_T5_ODD: dict[str, Any] = {
    "vocab_size": 87,
    "d_model": 60,
    "d_kv": 12,
    "d_ff": 33,
    "num_heads": 3,
    "num_layers": 3,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}


def _gpt2(name: str, model: str, **config: Any) -> Shape:
    common = {"vocab_size": 60, "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    return Shape(name, model, {**common, **ids, **config}, eos=1, continues=True)


def _llama(name: str, model: str, **config: Any) -> Shape:
    common = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return Shape(name, f"{model}ForCausalLM", {**common, **config}, eos=1, continues=True)


_GPT2_ODD = {"vocab_size": 87, "n_embd": 60, "n_head": 3, "n_layer": 3, "n_inner": 70}
_LLAMA_ODD: dict[str, Any] = {
    "vocab_size": 87,
    "hidden_size": 60,
    "intermediate_size": 33,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _deepseek(name: str, model: str, **config: Any) -> Shape:
    latent = {
        "num_key_value_heads": 4,
        "kv_lora_rank": 24,
        "q_lora_rank": 20,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "first_k_dense_replace": 9,
        "rms_norm_eps": 1e-6,
    }
    return _llama(name, model, **{**latent, **config})


_DEEPSEEK_ODD: dict[str, Any] = {
    "vocab_size": 87,
    "hidden_size": 60,
    "intermediate_size": 33,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "kv_lora_rank": 33,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 20,
    "v_head_dim": 24,
}


def _t5gemma(name: str, decoder: dict[str, Any] | None = None, **config: Any) -> Shape:
    common: dict[str, Any] = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 64,
        "sliding_window": 3,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 9.0,
    }
    tied = config.pop("tie_word_embeddings", True)
    encoder = {**common, **config}
    return Shape(
        name,
        "T5GemmaForConditionalGeneration",
        {
            "vocab_size": encoder["vocab_size"],
            "encoder": encoder,
            "decoder": {**encoder, **(decoder or {})},
            "tie_word_embeddings": tied,
            "decoder_start_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        eos=1,
        options={"suppress_tokens": [0]},
        spread=3.0,
    )


MARIAN = Shape(  # beside the suites of its own in parity.py
    "marian",
    "MarianMTModel",
    {**COMMON, "decoder_start_token_id": 59, "pad_token_id": 59, "eos_token_id": 0},
    eos=0,
)
SMALL = (
    _shape("bart", _BART, {"forced_bos_token_id": 0}, options={"forced_bos_token_id": 0}),
    _shape(
        "mbart",
        _MBART,
        {"scale_embedding": True, "decoder_start_token_id": 57},
    ),
    _shape(
        "m2m_100",
        _M2M,
        {"scale_embedding": True},
        options={"forced_bos_token_id": 58, **_NO_PADDING},
    ),
    _shape("pegasus", _PEGASUS, {"scale_embedding": True}, eos=1),
    _t5("t5", "T5"),
    _t5("mt5", "MT5", feed_forward_proj="gated-gelu", untied=True),
    _t5("umt5", "UMT5", feed_forward_proj="gated-silu", d_kv=20),
    _gpt2("gpt2", "GPT2LMHeadModel"),
    _gpt2("gpt_bigcode", "GPTBigCodeForCausalLM", n_head=4),
    _llama("llama", "Llama"),
    _t5gemma("t5gemma"),
    _deepseek("deepseek_v2", "DeepseekV2"),
    _deepseek("deepseek_v3", "DeepseekV3"),
)
LARGE = (
    _shape("bart-odd-untied", _BART, {**_ODD, "tie_word_embeddings": False}),
    _shape("bart-wide-scaled", _BART, {**_WIDE, "scale_embedding": True}),
    _shape(
        "mbart-odd-untied",
        _MBART,
        {**_ODD, "tie_word_embeddings": False, "decoder_start_token_id": 2},
        options={"forced_bos_token_id": 80},
    ),
    _shape(
        "mbart-wide-relu",
        _MBART,
        {**_WIDE, "activation_function": "relu", "decoder_start_token_id": 2},
    ),
    _shape("m2m_100-odd-untied", _M2M, {**_ODD, "tie_word_embeddings": False}, options=_NO_PADDING),
    _shape(
        "m2m_100-wide-d-37",
        _M2M,
        {**_WIDE, "d_model": 37, "decoder_attention_heads": 37},
        options=_NO_PADDING,
    ),
    _shape("pegasus-odd-untied", _PEGASUS, {**_ODD, "tie_word_embeddings": False}, eos=1),
    _t5("t5-odd-untied", "T5", **_T5_ODD, untied=True, tie_word_embeddings=False),
    _t5("t5-wide-gated", "T5", vocab_size=1500, feed_forward_proj="gated-gelu", d_ff=100),
    _t5("mt5-odd", "MT5", **_T5_ODD),
    _t5("umt5-odd-untied", "UMT5", **_T5_ODD, untied=True),
    _t5gemma(
        "t5gemma-odd-untied",
        {"num_hidden_layers": 2, "sliding_window": 7, "num_key_value_heads": 3, "head_dim": 20},
        vocab_size=87,
        hidden_size=60,
        intermediate_size=33,
        num_hidden_layers=3,
        num_attention_heads=6,
        head_dim=12,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    _t5gemma(
        "t5gemma-full",
        vocab_size=1200,
        layer_types=["full_attention"] * 2,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
    _deepseek(  # an odd rank is too much for transformers' complex numbers
        "deepseek_v2-odd-tied",
        "DeepseekV2",
        **{**_DEEPSEEK_ODD, "kv_lora_rank": 34, "tie_word_embeddings": True},
    ),
    _deepseek("deepseek_v3-odd-bias", "DeepseekV3", **_DEEPSEEK_ODD, attention_bias=True),
    _deepseek(
        "deepseek_v3-yarn",
        "DeepseekV3",
        vocab_size=1200,
        rope_parameters={**_YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
    ),
    _gpt2("gpt2-odd-untied", "GPT2LMHeadModel", **_GPT2_ODD, tie_word_embeddings=False),
    _gpt2("gpt2-by-layer", "GPT2LMHeadModel", scale_attn_by_inverse_layer_idx=True, vocab_size=900),
    _gpt2(
        "gpt_bigcode-odd-untied", "GPTBigCodeForCausalLM", **_GPT2_ODD, tie_word_embeddings=False
    ),
    _gpt2("gpt_bigcode-heads", "GPTBigCodeForCausalLM", **_GPT2_ODD, multi_query=False),
    _llama("llama-odd-tied", "Llama", **_LLAMA_ODD, tie_word_embeddings=True),
    _llama(
        "llama-3", "Llama", head_dim=24, attention_bias=True, mlp_bias=True, rope_parameters=_LLAMA3
    ),
    _llama("llama-yarn", "Llama", vocab_size=1200, head_dim=32, rope_parameters=_YARN),
    _llama("mistral-window", "Mistral", sliding_window=5, head_dim=12),
    _llama("mistral-full", "Mistral", **_LLAMA_ODD, sliding_window=None),
    _llama("qwen2", "Qwen2", num_key_value_heads=1),
    _llama(
        "qwen2-window-tied",
        "Qwen2",
        **_LLAMA_ODD,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=0,
        tie_word_embeddings=True,
    ),
    _shape("pegasus-wide-gelu-new", _PEGASUS, {**_WIDE, "activation_function": "gelu_new"}, eos=1),
)

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
