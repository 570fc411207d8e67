"""`s2s-infer fill-mask`: what may stand in the place of a mask token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .arguments import Parser, add_model_arguments, open_model
from .encode import Output, add_line_arguments, process
from .translate import check_input_arguments

EPILOG = """example:
  s2s-infer fill-mask -m bert-base-uncased/ "Paris is the [MASK] of France."
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "fill-mask",
        "[TEXT ...] [-i FILE] [-o FILE] [--top-k K] [options]",
        "Writes one line for each mask token of each text: the most probable tokens, best first, "
        "each\nwith its probability, TABs between them.",
        EPILOG,
    )
    add_line_arguments(parser, "one JSON object for each text, with token ids", pairs=False)
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="tokens (default 5)")
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    check_input_arguments(parser, arguments)
    model = open_model(arguments)

    def fill(inputs: list[Any]) -> Iterable[Output]:
        for masks in model.fill_mask(inputs, top_k=arguments.top_k, truncate=arguments.truncate):
            lines = [
                "\t".join(f"{c.text.strip() or c.token} {c.probability:.4f}" for c in candidates)
                for candidates in masks
            ]
            yield lines, {"masks": [[c._asdict() for c in candidates] for candidates in masks]}

    return process(arguments, fill)
