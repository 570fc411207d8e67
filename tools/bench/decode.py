"""Decoding speed of random Marian models, s2s-infer beside CTranslate2 at the same precision.

    python tools/bench/decode.py [--model base|tiny] [--dtype int8] [--threads 1] [--rounds 5]
                                                        (extra: reference)

Same weights, same sources, and outputs of a fixed length: the end token is ruled out.  The two run
in turn, so that both see the same machine; medians of output tokens a second are printed as JSON,
by the wall and by the CPU (which stands a busy machine).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "bench")]

from cold_start import commit, cpu

SHAPES = {"base": (6, 6, 512, 2048), "tiny": (6, 2, 256, 1536)}
"""Encoder layers, decoder layers, d_model, width of the feed-forward blocks; 8 heads."""
VOCABULARY = 32000
N_SOURCE, N_TARGET = 24, 32
WORKLOADS = [(1, 1), (1, 4), (32, 1), (32, 4)]
"""Sentences at once, beams."""


def make_model(shape: str, directory: Path) -> None:
    """The same random weights as a Hugging Face directory and in CTranslate2's format."""
    import torch
    from ctranslate2.converters.transformers import MarianMTLoader
    from transformers import MarianConfig, MarianMTModel

    encoder_layers, decoder_layers, d_model, d_ffn = SHAPES[shape]
    torch.manual_seed(1)
    config = MarianConfig(
        vocab_size=VOCABULARY,
        d_model=d_model,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=d_ffn,
        decoder_ffn_dim=d_ffn,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=VOCABULARY - 1,
        eos_token_id=0,
        decoder_start_token_id=VOCABULARY - 1,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config).eval()
    model.save_pretrained(directory / "hf")
    spec = MarianMTLoader().get_model_spec(model)
    tokens = ["</s>", "<unk>", *(f"t{i}" for i in range(2, VOCABULARY - 1))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.eos_token, spec.config.unk_token = "</s>", "<unk>"
    spec.config.decoder_start_token = "</s>"
    spec.validate()
    spec.optimize(quantization=None)
    (directory / "ct2").mkdir()
    spec.save(str(directory / "ct2"))


def runners(directory: Path, dtype: str, threads: int) -> dict[str, Callable[[int, int], None]]:
    """Name -> translate(sentences at once, beams)."""
    import ctranslate2

    import s2s_infer

    rng = random.Random(3)
    ids = [[rng.randrange(2, VOCABULARY - 1) for _ in range(N_SOURCE)] for _ in range(32)]
    model = s2s_infer.load(directory / "hf", dtype=dtype, threads=threads)
    translator = ctranslate2.Translator(
        str(directory / "ct2"), compute_type=dtype, intra_threads=threads, inter_threads=1
    )

    def ours(n: int, beams: int) -> None:
        results = model.generate_ids(
            ids[:n], num_beams=beams, max_new_tokens=N_TARGET, min_new_tokens=N_TARGET
        )
        assert all(len(result.token_ids) == N_TARGET for result in results)

    def theirs(n: int, beams: int) -> None:
        sources = [[f"t{id}" for id in source] for source in ids[:n]]
        results = translator.translate_batch(
            sources,
            beam_size=beams,
            max_decoding_length=N_TARGET,
            min_decoding_length=N_TARGET,
        )
        assert all(len(result.hypotheses[0]) == N_TARGET for result in results)

    return {"s2s-infer": ours, "CTranslate2": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SHAPES), default="base")
    parser.add_argument("--dtype", choices=["int8", "float32"], default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the models, to use them again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        if not (directory / "ct2").exists():
            directory.mkdir(exist_ok=True)
            make_model(arguments.model, directory)
        programs = runners(directory, arguments.dtype, arguments.threads)
        speeds: dict[tuple[int, int], dict[str, list[float]]] = {
            workload: {name: [] for name in programs} for workload in WORKLOADS
        }
        cpu_speeds = copy.deepcopy(speeds)
        for number in range(arguments.rounds + 1):
            for (n, beams), found in speeds.items():
                for name, translate in programs.items():
                    start, cpu_start = time.perf_counter(), time.process_time()
                    translate(n, beams)
                    if number:  # the first round warms up
                        found[name].append(n * N_TARGET / (time.perf_counter() - start))
                        cpu_found = cpu_speeds[n, beams][name]
                        cpu_found.append(n * N_TARGET / (time.process_time() - cpu_start))
    report = {
        "benchmark": f"{arguments.model}, {arguments.dtype}, {arguments.threads} threads: output "
        f"tokens/s, sources of {N_SOURCE}, outputs of {N_TARGET} tokens",
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "commit": commit(),
        "versions": {name: version(name) for name in ("numpy", "ctranslate2")},
    }
    for (n, beams), found in speeds.items():
        cpu_medians = {name: statistics.median(all_) for name, all_ in cpu_speeds[n, beams].items()}
        medians = {name: statistics.median(all_) for name, all_ in found.items()}
        report[f"batch {n}, beams {beams}"] = {
            **{name: round(value, 1) for name, value in medians.items()},
            "spread": {
                name: [round(min(all_), 1), round(max(all_), 1)] for name, all_ in found.items()
            },
            "ratio": round(medians["s2s-infer"] / medians["CTranslate2"], 2),
            "by CPU time": {name: round(value, 1) for name, value in cpu_medians.items()},
            "ratio by CPU time": round(cpu_medians["s2s-infer"] / cpu_medians["CTranslate2"], 2),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
