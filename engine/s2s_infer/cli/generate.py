"""`s2s-infer generate`: any sequence-to-sequence task, from texts or token ids."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OptionError
from ..results import Hypothesis
from .arguments import (
    Parser,
    add_generation_arguments,
    add_model_arguments,
    add_text_arguments,
    generation_options,
    open_model,
    text_options,
)
from .translate import (
    add_input_arguments,
    add_prompt,
    add_target_prefix,
    check_input_arguments,
    process,
)

EPILOG = """examples:
  s2s-infer generate -m summariser/ -i articles.txt --num-beams 4 --no-repeat-ngram-size 3
  s2s-infer generate --do-sample --num-beams 1 --top-p 0.9 --seed 1 --num-return-sequences 5 你好
  s2s-infer generate -m model/ --ids "3 4 5 0"
  s2s-infer generate -m gpt2/ --prompt "$(cat examples.txt)" -i questions.txt
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "generate",
        "[TEXT ...] [-i FILE] [-o FILE] [--ids] [options]",
        "Runs a sequence-to-sequence model on texts given as arguments, or on lines of a file.",
        EPILOG,
    )
    add_input_arguments(parser)
    add_text_arguments(parser)
    add_target_prefix(parser, ids=" (ids with --ids)")
    add_prompt(parser, ids=" (ids with --ids)")
    parser.add_argument(
        "--ids",
        action="store_true",
        help="inputs and outputs are token ids separated by spaces; needs no tokenizer files",
    )
    add_model_arguments(parser)
    add_generation_arguments(parser)
    arguments = parser.parse(argv)
    check_input_arguments(parser, arguments)
    for name, value in text_options(arguments).items():
        if arguments.ids and value is not None:
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} needs texts: with --ids, the inputs have all tokens themselves")
    model = open_model(arguments)
    options = generation_options(arguments)
    prefix, prompt = arguments.target_prefix, arguments.prompt
    if not arguments.ids:
        options.update(text_options(arguments), target_prefix=prefix, prompt=prompt)
        return process(model, arguments, options)
    options["target_prefix"] = None if prefix is None else parse_ids(prefix, "--target-prefix")
    options["prompt"] = None if prompt is None else parse_ids(prompt, "--prompt")
    return process(model, arguments, options, parse_ids, _render_ids)


def parse_ids(text: str, where: str) -> list[int]:
    """Token ids of a line."""
    try:
        return [int(word) for word in text.split()]
    except ValueError:
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise OptionError(
            f"{where} must be token ids separated by spaces, not {shown!r}."
        ) from None


def _render_ids(hypothesis: Hypothesis) -> str:
    return " ".join(map(str, hypothesis.token_ids))
