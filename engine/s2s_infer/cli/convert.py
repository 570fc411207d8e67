"""`s2s-infer convert`: a checkpoint as one native file, compared with float32 if asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import Parser, add_text_arguments, text_options
from .lines import read_pairs

EPILOG = """example:
  s2s-infer convert opus-mt-zh-en/ zh-en.s2s --dtype int8 --calibrate some.txt --check others.txt
"""


def run(argv: Sequence[str]) -> int:
    parser = Parser(
        "convert",
        "SRC DST [--dtype TYPE] [--check FILE] [options]",
        "Writes a model (a Hugging Face directory or a *.s2s file), with its tokenizer, as\n"
        "one *.s2s file, which is mapped into memory instead of being read and converted at each "
        "start.",
        EPILOG,
    )
    parser.add_argument("source", metavar="SRC", help="a Hugging Face directory or a *.s2s file")
    parser.add_argument("target", metavar="DST", help="the file to write, *.s2s")
    parser.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE",
        help="float32, bfloat16 (half the size), int8 (a quarter), int4 (embeddings "
        "int8, all else half of that: the fastest for one text at a time) or auto: as SRC, float32 "
        "for a directory",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="round to int8 or int4 so that what the model computes for FILE changes least: some "
        "hundred sources, one a line (TAB and more may follow)",
    )
    parser.add_argument(
        "--check",
        metavar="FILE",
        help="translate FILE with both, and say how far DST is from float32: one source a line, "
        "or source TAB reference; needs sacrebleu",
    )
    add_text_arguments(parser)
    parser.add_argument("--num-beams", type=int, metavar="N", help="beams for --check")
    parser.add_argument("-f", "--force", action="store_true", help="replace DST if it exists")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say what was written")
    arguments = parser.parse(argv)
    target = Path(arguments.target)
    if target.is_dir():
        parser.error(f"{target} is a directory, DST must be a file")
    if target.exists() and not arguments.force:
        parser.error(f"{target} exists; --force replaces it")

    if arguments.check is None and arguments.num_beams is not None:
        parser.error("--num-beams is for --check FILE")
    how = text_options(arguments)
    for name, value in how.items():
        if arguments.check is None and arguments.calibrate is None and value is not None:
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} is for --calibrate FILE and --check FILE")
    if arguments.calibrate is not None and arguments.dtype not in ("int8", "int4"):
        parser.error("--calibrate is for --dtype int8 and int4")
    if arguments.check is not None:
        from .fidelity import sacrebleu

        sacrebleu()  # what is missing shows before the conversion
        pairs = read_pairs(Path(arguments.check))

    from ..formats.native import save_native
    from ..loaders import load_checkpoint

    if arguments.calibrate is None:
        checkpoint = load_checkpoint(arguments.source, dtype=arguments.dtype)
    else:
        from .calibration import calibrated

        texts, _ = read_pairs(Path(arguments.calibrate))
        checkpoint = calibrated(Path(arguments.source), arguments.dtype, texts, how)
    if checkpoint.missing_tokenizer is not None and not arguments.quiet:
        print(f"s2s-infer: note: {checkpoint.missing_tokenizer}", file=sys.stderr)
    save_native(checkpoint, target)
    if not arguments.quiet:
        size = target.stat().st_size / 1e6
        print(f"{target}: {checkpoint.family}, {checkpoint.dtype}, {size:.1f} MB")
    if arguments.check is not None:
        from .fidelity import report

        source = Path(arguments.source)
        for line in report(source, target, pairs, how, arguments.num_beams):
            print(line)
    return 0
