"""Every family at one small shape, beside transformers and CTranslate2: parity and speed.

    PYTHONPATH=engine python -m tools.bench.families [FAMILY ...] [--write docs/families.md]

A random checkpoint of each family is made by transformers (extra: reference).  Parity: the greatest
error of encoder output and logits under teacher forcing, relative to the greatest element; outputs
of greedy and beam search with the same ids; for bfloat16 and int8 the root mean square of the
logits' errors, relative to the logits' deviation, and the steps whose best token is float32's.
Speed: processor time of one thread, least of interleaved rounds, as ratios: 16 sources (or
prompts) of 24 tokens, 32 greedy tokens each; an encoder alone reads 32 texts of 64.  CTranslate2
has the environment in which it was found fastest (packed matrices, AVX-512).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CT2_PACKED_GEMM", "1")
os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests")]

import numpy as np

import parity
import parity_families
import s2s_infer

N_PARITY, N_SOURCES, N_SOURCE, N_NEW, N_ROUNDS = 10, 16, 24, 32, 4
N_TEXTS, N_TEXT = 32, 64
VOCAB, WIDTH, FFN, LAYERS, HEADS = 8000, 512, 2048, 4, 8

_FAIRSEQ = {
    "d_model": WIDTH, "encoder_ffn_dim": FFN, "decoder_ffn_dim": FFN,
    "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "max_position_embeddings": 256,
}  # fmt: skip
_T5 = {"d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": FFN, "num_layers": LAYERS,
       "num_heads": HEADS, "num_decoder_layers": LAYERS}  # fmt: skip
_GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": FFN, "n_positions": 256}
_LLAMA = {"hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
          "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": WIDTH // HEADS,
          "max_position_embeddings": 256}  # fmt: skip
_T5GEMMA = {"hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": 4, "head_dim": WIDTH // HEADS,
            "query_pre_attn_scalar": WIDTH // HEADS, "max_position_embeddings": 256,
            "sliding_window": 128, "vocab_size": VOCAB}  # fmt: skip
_DEEPSEEK = {"hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
             "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "kv_lora_rank": 128,
             "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
             "max_position_embeddings": 256}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("marian", "bart", "mbart", "m2m_100", "pegasus"), _FAIRSEQ),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT2),
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),
    "t5gemma": {},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _DEEPSEEK),
}
OLD_KEYS: dict[str, dict[str, Any]] = {  # of config.json, which CTranslate2's converter asks for
    "bart": {"normalize_before": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
    "bert": {"position_embedding_type": "absolute"},
    "roberta": {"position_embedding_type": "absolute"},
    "distilbert": {"position_embedding_type": "absolute"},
}
ENCODERS = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "distilbert": "DistilBertModel",
}


def shapes() -> dict[str, parity_families.Shape]:
    """Family -> the small shape that is measured."""
    found = {}
    for shape in (parity_families.MARIAN, *parity_families.SMALL, *parity_families.LARGE):
        family = shape.name.split("-")[0]
        if family in SHAPES and family not in found:
            config = {**shape.config, **SHAPES[family], "vocab_size": VOCAB}
            if family == "t5gemma":  # which has a config for each side
                config |= {side: {**config[side], **_T5GEMMA} for side in ("encoder", "decoder")}
            found[family] = replace(shape, name=family, config=config)
    return found


# ---- parity --------------------------------------------------------------------------------------


def measure_parity(
    shape: parity_families.Shape, reference: Any, models: dict[str, s2s_infer.Model]
) -> dict[str, Any]:
    sources = parity_families.sources(shape, N_PARITY, seed=7)
    error = {"encoder": 0.0, "logits": 0.0}
    same, n_steps = {"bfloat16": 0, "int8": 0}, 0
    squares = {"bfloat16": 0.0, "int8": 0.0, "float32": 0.0}
    for i, source in enumerate(sources):
        target = parity_families.target(shape, i)
        theirs = parity_families.reference_forward(reference, shape, source, target)
        ours = {
            dtype: parity_families.engine_forward(model, shape, source, target)
            for dtype, model in models.items()
        }
        for name, expected in theirs.items():
            difference = np.abs(ours["float32"][name] - expected).max() / np.abs(expected).max()
            error[name] = max(error[name], float(difference))
        best = {dtype: arrays["logits"].argmax(1) for dtype, arrays in ours.items()}
        n_steps += len(best["float32"])
        exact = ours["float32"]["logits"]
        squares["float32"] += float(np.square(exact - exact.mean(1, keepdims=True)).sum())
        for dtype in same:
            same[dtype] += int((best[dtype] == best["float32"]).sum())
            squares[dtype] += float(np.square(ours[dtype]["logits"] - exact).sum())
    result: dict[str, Any] = {"logits_error": error["logits"]}
    if not shape.continues:
        result["encoder_error"] = error["encoder"]
    for name, beams in (("greedy", 1), ("beam4", 4)):
        options = {"num_beams": beams}
        expected = parity_families.reference_generate(reference, shape, sources, options)
        found = parity.engine_generate(
            models["float32"], sources, parity_families.decoding(shape, options)
        )
        equal = sum(a[0][0] == b[0][0] for a, b in zip(found, expected, strict=True))
        result[f"{name}_same"] = [equal, len(sources)]
    result["rms_error"] = {d: (squares[d] / squares["float32"]) ** 0.5 for d in same}
    result["best_token_same"] = {dtype: [n, n_steps] for dtype, n in same.items()}
    return result


# ---- speed ---------------------------------------------------------------------------------------


def convert(reference: Any, family: str, folder: Path, dtype: str) -> None:
    """A CTranslate2 model with token names t0, t1, ..."""
    from ctranslate2.converters import transformers as converters

    for key, value in OLD_KEYS.get(family, {}).items():
        setattr(reference.config, key, value)
    for key in ("add_final_layer_norm", "static_position_embeddings"):
        setattr(reference.config, key, family in ("mbart", "pegasus"))
    loader = converters._MODEL_LOADERS[type(reference.config).__name__]
    spec = loader.get_model_spec(copy.deepcopy(reference))  # which takes some models apart
    # of Marian it leaves out the last one, the padding token
    tokens = [f"t{i}" for i in range(reference.config.vocab_size - (family == "marian"))]
    if hasattr(spec, "register_source_vocabulary"):
        spec.register_source_vocabulary(tokens)
        spec.register_target_vocabulary(tokens)
        start = reference.config.decoder_start_token_id or 0
        spec.config.decoder_start_token = tokens[start if start < len(tokens) else 0]
    else:
        spec.register_vocabulary(tokens)
    for key in ("bos_token", "eos_token", "unk_token"):
        if hasattr(spec.config, key):
            setattr(spec.config, key, tokens[2])
    spec.validate()
    spec.optimize(quantization=None if dtype == "float32" else dtype)
    folder.mkdir()
    spec.save(str(folder))


def peer_generate(folder: Path, rows: list[list[int]], continues: bool) -> Callable[[], Any]:
    import ctranslate2

    tokens = [[f"t{i}" for i in row] for row in rows]
    threads = {"inter_threads": 1, "intra_threads": 1}
    if continues:
        generator = ctranslate2.Generator(str(folder), device="cpu", **threads)
        return lambda: generator.generate_batch(
            tokens, max_length=N_NEW, min_length=N_NEW, sampling_topk=1,
            include_prompt_in_result=False,
        )  # fmt: skip
    translator = ctranslate2.Translator(str(folder), device="cpu", **threads)
    return lambda: translator.translate_batch(
        tokens, beam_size=1, max_decoding_length=N_NEW, min_decoding_length=N_NEW
    )


def reference_generate(reference: Any, rows: list[list[int]]) -> Callable[[], Any]:
    import torch

    ids = torch.tensor(rows)

    def run() -> Any:
        with torch.no_grad():
            return reference.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1,
                max_new_tokens=N_NEW, min_new_tokens=N_NEW, pad_token_id=0,
            )  # fmt: skip

    return run


def engine_generate(model: s2s_infer.Model, rows: list[list[int]]) -> Callable[[], Any]:
    options: dict[str, Any] = {"min_new_tokens": N_NEW, "max_new_tokens": N_NEW, "num_beams": 1}
    return lambda: model.generate_ids(rows, **options)


def least_times(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of processor time, the least of interleaved rounds."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(N_ROUNDS):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - begin)
    return best


def speed_of(
    reference: Any, family: str, folder: Path, runs: dict[str, Callable[[], Any]],
    peer: Callable[[Path], Callable[[], Any]],
) -> dict[str, Any]:  # fmt: skip
    """Times of our runs and of CTranslate2's, as far as it opens the family."""
    result: dict[str, Any] = {}
    for dtype in ("float32", "int8"):
        try:
            convert(reference, family, folder / f"ct2-{dtype}", dtype)
            runs[f"CTranslate2 {dtype}"] = peer(folder / f"ct2-{dtype}")
        except Exception as error:  # a family that it does not know, or not in this version
            result["peer_lacks"] = f"{type(error).__name__}: {error}"[:200]
    for run in runs.values():
        run()  # once to warm up
    seconds = least_times(runs)
    result["seconds"] = seconds
    for dtype in ("float32", "int8"):
        for name in ("transformers float32", f"CTranslate2 {dtype}"):
            if name in seconds:
                ratio = seconds[name] / seconds[f"s2s-infer {dtype}"]
                result.setdefault("times_faster", {})[f"{dtype} than {name}"] = ratio
    return result


# ---- families ------------------------------------------------------------------------------------


def measure(shape: parity_families.Shape) -> dict[str, Any]:
    """Parity and speed of a family that generates."""
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        parity_families.make_checkpoint(shape, folder)
        reference = parity_families.open_reference(shape, folder)
        torch.set_num_threads(1)
        models = {
            dtype: s2s_infer.load(folder, dtype=dtype, threads=1)
            for dtype in ("float32", "bfloat16", "int8")
        }
        rng = np.random.default_rng(1)
        rows: list[list[int]] = rng.integers(4, VOCAB, (N_SOURCES, N_SOURCE)).tolist()
        runs = {f"s2s-infer {d}": engine_generate(models[d], rows) for d in ("float32", "int8")}
        runs["transformers float32"] = reference_generate(reference, rows)
        return {
            "family": shape.name,
            "class": shape.model,
            **measure_parity(shape, reference, models),
            **speed_of(
                reference, shape.name, Path(temporary), runs,
                lambda path: peer_generate(path, rows, shape.continues),
            ),
        }  # fmt: skip


def measure_encoder(family: str) -> dict[str, Any]:
    """Parity and speed of an encoder alone: its hidden states."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(5)
    sizes = {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN, "dim": WIDTH,
        "hidden_dim": FFN, "num_hidden_layers": LAYERS, "n_layers": LAYERS,
        "num_attention_heads": HEADS, "n_heads": HEADS, "max_position_embeddings": 130,
    }  # fmt: skip
    model_class = getattr(transformers, ENCODERS[family])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        reference = model_class(model_class.config_class(**sizes)).eval()
        reference.save_pretrained(folder)
        rng = np.random.default_rng(1)
        rows: list[list[int]] = rng.integers(4, VOCAB, (N_TEXTS, N_TEXT)).tolist()
        ids = torch.tensor(rows)

        def theirs() -> Any:
            with torch.no_grad():
                return reference(input_ids=ids).last_hidden_state.numpy()

        models = {d: s2s_infer.load(folder, dtype=d, threads=1) for d in ("float32", "int8")}

        def ours(dtype: str) -> Callable[[], Any]:
            return lambda: models[dtype].encode_ids(rows)

        def peer(path: Path) -> Callable[[], Any]:
            import ctranslate2

            opened = ctranslate2.Encoder(str(path), device="cpu", inter_threads=1, intra_threads=1)
            return lambda: np.array(opened.forward_batch(rows).last_hidden_state)

        expected = theirs()
        error = np.abs(np.stack(ours("float32")()) - expected).max() / np.abs(expected).max()
        runs = {f"s2s-infer {d}": ours(d) for d in ("float32", "int8")}
        runs["transformers float32"] = theirs
        return {
            "family": family,
            "class": ENCODERS[family],
            "encoder_error": float(error),
            **speed_of(reference, family, Path(temporary), runs, peer),
        }


# ---- the table -----------------------------------------------------------------------------------

HEAD = (
    "family", "encoder error", "logits error", "same ids: greedy, beam 4",
    "logits' rms error: bf16, int8", "best token: bf16, int8",
    "float32: x transformers, x CTranslate2", "int8: x CTranslate2",
)  # fmt: skip
BEGIN, END = "<!-- measured by tools/bench/families.py -->", "<!-- end of the table -->"


def table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown lines."""
    yield "| " + " | ".join(HEAD) + " |"
    yield "| --- |" + " ---: |" * (len(HEAD) - 1)
    for row in results:
        faster = row.get("times_faster", {})

        def times(key: str, faster: dict[str, float] = faster) -> str:
            return f"{faster[key]:.1f}" if key in faster else "-"

        same = [row.get(f"{name}_same") for name in ("greedy", "beam4")]
        best = row.get("best_token_same", {}).values()
        cells = [
            row["family"],
            f"{row['encoder_error']:.0e}" if "encoder_error" in row else "-",
            f"{row['logits_error']:.0e}" if "logits_error" in row else "-",
            ", ".join(f"{n} of {total}" for n, total in filter(None, same)) or "-",
            ", ".join(f"{100 * e:.1f} %" for e in row.get("rms_error", {}).values()) or "-",
            ", ".join(f"{100 * n / total:.0f} %" for n, total in best) or "-",
            f"{times('float32 than transformers float32')}, "
            f"{times('float32 than CTranslate2 float32')}",
            times("int8 than CTranslate2 int8"),
        ]
        yield "| " + " | ".join(cells) + " |"


def write(page: Path, order: list[str], lines: list[str]) -> None:
    """Put the lines of a table into a page; rows of families that it lacks stay."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {line.split(" | ")[0]: line for line in [*old.splitlines()[3:], *lines[2:]]}
    in_order = sorted(rows.values(), key=lambda line: order.index(line.split()[1]))
    table_text = "\n".join([*lines[:2], *in_order])
    page.write_text(f"{before}{BEGIN}\n{table_text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.bench.families")
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the rows into the table of a page"
    )
    arguments = parser.parse_args()
    results = []
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        name: lambda shape=shape: measure(shape)  # type: ignore[misc]
        for name, shape in shapes().items()
    }
    measures |= {name: lambda name=name: measure_encoder(name) for name in ENCODERS}  # type: ignore[misc]
    for name in arguments.families or measures:
        results.append(measures[name]())
        print(list(table(results))[-1], results[-1].get("peer_lacks", ""), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.write is not None:
        write(arguments.write, list(measures), list(table(results)))


if __name__ == "__main__":
    main()
