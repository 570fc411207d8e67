"""`s2s-infer encode`, and what `fill-mask` and `classify` share with it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .arguments import Parser, add_model_arguments, open_model
from .translate import check_input_arguments, open_reader, open_writer

if TYPE_CHECKING:
    from ..readers import Reader

CHUNK = 64
Output = tuple[list[str], dict[str, Any]]
"""Lines of text of one input, and the object that --json writes instead."""

EPILOG = """examples:
  s2s-infer encode -m bert-base-uncased/ "The weather is nice." --pooling cls
  s2s-infer encode -m my-model/ -i texts.txt --normalize --json > vectors.jsonl
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "encode",
        "[TEXT ...] [-i FILE] [-o FILE] [--pooling KIND] [options]",
        "Writes one vector a line for each text: numbers with spaces between them.",
        EPILOG,
    )
    add_line_arguments(parser, '{"vector": [...]} a line')
    parser.add_argument(
        "--pooling",
        default="auto",
        metavar="KIND",
        help="mean of the hidden states, cls: that of the first token, pooler, or auto: what the "
        "checkpoint's modules.json says, mean where it has none (default auto)",
    )
    parser.add_argument(
        "--normalize", action="store_true", help="divide each vector by its Euclidean length"
    )
    parser.add_argument("--to", metavar="LANG", help="target language, where a model has several")
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    check_input_arguments(parser, arguments)
    model = open_model(arguments)

    def encode(inputs: list[Any]) -> Iterable[Output]:
        for vector in model.encode(
            inputs,
            to=arguments.to,
            pooling=arguments.pooling,
            normalize=arguments.normalize,
            truncate=arguments.truncate,
        ):
            yield [" ".join(map(str, vector))], {"vector": vector.tolist()}

    return process(arguments, encode)


def add_line_arguments(parser: argparse.ArgumentParser, json: str, pairs: bool = True) -> None:
    """TEXT, -i, -o, --pairs, --truncate, --json, -q.  json: what --json writes."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: lines of -i")
    parser.add_argument("-i", "--input", metavar="FILE", help="lines to read (default: stdin)")
    parser.add_argument("-o", "--output", metavar="FILE", help="file to write (default: stdout)")
    if pairs:
        parser.add_argument(
            "--pairs", action="store_true", help="each input is two texts with a TAB between them"
        )
    parser.add_argument("--truncate", action="store_true", help="cut inputs that are too long")
    parser.add_argument("--json", action="store_true", help=json)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def process(
    arguments: argparse.Namespace,
    each: Callable[[list[Any]], Iterable[Output]],
) -> int:
    """Run `each` on chunks of the inputs."""
    from .lines import to_json

    def parse(text: str, where: str) -> Any:
        if not getattr(arguments, "pairs", False):
            return text
        first, tab, second = text.partition("\t")
        if not tab or "\t" in second:
            raise OptionError(f"{where} must be two texts with a TAB between them.")
        return first, second

    with ExitStack() as stack:
        reader = open_reader(arguments, stack, parse)
        writer, progress = open_writer(arguments, stack, reader)
        n_done = 0
        while (chunk := reader.take(CHUNK, True)) is not None:
            try:
                for texts, value in each(list(chunk)):
                    for text in [to_json(value)] if arguments.json else texts:
                        writer.write(text)
                    progress.advance()
            except OptionError as error:
                raise _located(error, reader, n_done) from None
            n_done += len(chunk)
    return 0


def _located(error: OptionError, reader: Reader[Any], n_done: int) -> OptionError:
    """The error of a chunk's texts[i], named as the input that it is."""
    message = re.sub(r"texts\[(\d+)\]", lambda m: reader.where(n_done + int(m[1])), str(error))
    return type(error)(message)
