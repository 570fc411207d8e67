"""`s2s-infer score`: log-probabilities of given outputs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, zip_longest
from pathlib import Path

from .arguments import (
    Parser,
    add_model_arguments,
    add_text_arguments,
    open_model,
    text_options,
)
from .lines import to_json
from .translate import add_prompt

CHUNK = 256

EPILOG = """examples:
  s2s-infer score "今天天气很好" "The weather is nice today."
  s2s-infer score --sources chinese.txt --targets english.txt --json
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "score",
        "SOURCE TARGET [options]\n       s2s-infer score --sources FILE --targets FILE [options]",
        "Writes one score a line: the log-probability of each target, its end token included, "
        "divided by\nthe number of its tokens ** length penalty.",
        EPILOG,
    )
    parser.add_argument("pair", nargs="*", metavar="SOURCE TARGET", help="two texts")
    parser.add_argument("--sources", metavar="FILE", help="source texts, one a line")
    parser.add_argument("--targets", metavar="FILE", help="their targets, one a line")
    add_text_arguments(parser)
    add_prompt(parser)
    parser.add_argument("--length-penalty", type=float, metavar="X", help="default: the model's")
    parser.add_argument("--truncate", action="store_true", help="cut sources that are too long")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_model_arguments(parser)
    arguments = parser.parse(argv)
    files = (arguments.sources, arguments.targets)
    if len(arguments.pair) == 2 and files == (None, None):
        pairs: Iterator[tuple[str, str]] = iter([(arguments.pair[0], arguments.pair[1])])
    elif not arguments.pair and None not in files:
        pairs = _pairs(parser, *files)
    else:
        parser.error("give SOURCE and TARGET, or --sources and --targets")

    model = open_model(arguments)
    prompt = None if arguments.prompt is None else model.prompt(arguments.prompt)
    with ExitStack() as stack:
        stack.callback(sys.stdout.flush)
        while chunk := list(islice(pairs, CHUNK)):
            sources, targets = zip(*chunk, strict=True)
            for result in model.score(
                sources,
                targets,
                **text_options(arguments),
                prompt=prompt,
                length_penalty=arguments.length_penalty,
                truncate=arguments.truncate,
            ):
                if arguments.json:
                    print(to_json(result.to_dict()))
                else:
                    print(f"{result.score:.6f}")
    return 0


def _pairs(parser: Parser, sources: str, targets: str) -> Iterator[tuple[str, str]]:
    """Lines of the two files side by side."""
    with Path(sources).open("rb") as first, Path(targets).open("rb") as second:
        for number, (source, target) in enumerate(zip_longest(first, second), 1):
            if source is None or target is None:
                short, long = (sources, targets) if source is None else (targets, sources)
                parser.error(f"{short} has only {number - 1} lines, {long} has more")
            yield _text(source, sources, number), _text(target, targets, number)


def _text(line: bytes, name: str, number: int) -> str:
    from ..errors import OptionError

    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise OptionError(f"line {number} of {name} is not valid UTF-8.") from None
