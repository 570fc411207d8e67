"""`s2s-infer classify`: the label of each text or pair of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .arguments import Parser, add_model_arguments, open_model
from .encode import Output, add_line_arguments, process
from .translate import check_input_arguments

EPILOG = """examples:
  s2s-infer classify -m my-sentiment-model/ "What a lovely day."
  s2s-infer classify -m my-entailment-model/ --pairs -i pairs.tsv --json
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "classify",
        "[TEXT ...] [-i FILE] [-o FILE] [--pairs] [options]",
        "Writes one line for each text: the label of the highest score, a TAB, the score.",
        EPILOG,
    )
    add_line_arguments(parser, "one JSON object for each text, with the scores of all labels")
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    check_input_arguments(parser, arguments)
    model = open_model(arguments)

    def classify(inputs: list[Any]) -> Iterable[Output]:
        for result in model.classify(inputs, truncate=arguments.truncate):
            yield [f"{result.label}\t{result.score:.4f}"], result.to_dict()

    return process(arguments, classify)
