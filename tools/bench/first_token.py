"""From the start of the interpreter to the first token: what each engine's user would write.

The smallest program of each, nothing of the bench in it: it says on stdout that it has a token, and
that moment is taken by the parent, so that the end of the process is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .engines import ROOT

OURS = """
import json, os, sys
import s2s_infer
path, dtype, threads, source = sys.argv[1:]
model = s2s_infer.load(path, threads=int(threads))
[result] = model.generate_ids([json.loads(source)], num_beams=1, max_new_tokens=1, min_new_tokens=1)
assert len(result.token_ids) == 1
os.write(1, b".")
"""
CTRANSLATE2 = """
import json, os, sys
import ctranslate2
path, dtype, threads, source = sys.argv[1:]
translator = ctranslate2.Translator(path, compute_type=dtype, intra_threads=int(threads))
[result] = translator.translate_batch(
    [json.loads(source)], beam_size=1, max_decoding_length=1, min_decoding_length=1
)
assert len(result.hypotheses[0]) == 1
os.write(1, b".")
"""
TRANSFORMERS = """
import json, os, sys
import torch
from transformers import MarianMTModel
path, dtype, threads, source = sys.argv[1:]
torch.set_num_threads(int(threads))
model = MarianMTModel.from_pretrained(path).eval()
with torch.inference_mode():
    result = model.generate(
        torch.tensor([json.loads(source)]), num_beams=1, max_new_tokens=1, min_new_tokens=1
    )
assert result.shape == (1, 2)
os.write(1, b".")
"""
ONNXRUNTIME = """
import json, os, sys
from pathlib import Path
from tools.bench.onnx_model import Decoder
path, dtype, threads, source = sys.argv[1:]
decoder = Decoder(Path(path), int(threads))
[result] = decoder.run([json.loads(source)], 1, fixed=True)
assert len(result) == 1
os.write(1, b".")
"""
PROGRAMS = {
    "s2s-infer": OURS,
    "CTranslate2": CTRANSLATE2,
    "transformers": TRANSFORMERS,
    "onnxruntime": ONNXRUNTIME,
}


def seconds(
    engine: str,
    path: Path,
    dtype: str,
    threads: int,
    source: list[int] | list[str],
    environment: Mapping[str, str],
) -> float:
    """One run.  source: as the engine takes it."""
    program = [sys.executable, "-c", PROGRAMS[engine], str(path), dtype, str(threads)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*program, json.dumps(source)],
        cwd=ROOT,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    found = process.stdout.read(1)
    elapsed = time.perf_counter() - start
    process.stdout.close()
    if process.wait() or found != b".":
        raise RuntimeError(f"the process of {engine} ended with {process.returncode}")
    return elapsed
