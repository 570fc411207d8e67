"""`s2s-infer trace`: the glass box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .arguments import (
    Parser,
    add_model_arguments,
    add_text_arguments,
    open_model,
    text_options,
)

EPILOG = """example:
  s2s-infer trace "今天天气很好" -o trace.npz
  python -c "import numpy; print(numpy.load('trace.npz')['encoder.0.self_attn.weights'].shape)"
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "trace",
        "TEXT [--target TEXT] [-o FILE] [options]",
        "Lists, and with -o writes as a NumPy archive, every intermediate tensor of one input:\n"
        "embeddings, positions, attention weights, the output of each layer, logits.",
        EPILOG,
    )
    parser.add_argument("text", metavar="TEXT", help="the input")
    parser.add_argument("--target", metavar="TEXT", help="force this output (default: greedy)")
    add_text_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="*.npz file to write")
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    if arguments.output is not None and not arguments.output.endswith(".npz"):
        parser.error(f"--output must end with .npz, not {arguments.output!r}")
    tensors = open_model(arguments).trace(
        arguments.text, arguments.target, **text_options(arguments)
    )
    if arguments.output is not None:
        import numpy as np

        with Path(arguments.output).open("wb") as file:
            np.savez(file, allow_pickle=False, **tensors)
    width = max(map(len, tensors))
    for name, array in tensors.items():
        if array.ndim == 1:
            shown = " ".join(str(value) for value in array.tolist())
        else:
            shown = f"{list(array.shape)}  mean {array.mean():.4g}  std {array.std():.4g}"
        print(f"{name:<{width}}  {shown}")
    return 0
