"""Shapes of random checkpoints of every family: small for goldens, others for the live suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
