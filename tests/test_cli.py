"""The command s2s-infer, run as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import s2s_infer
from command import CHECKPOINT, COMMAND, FIXTURES, IDS_ONLY, error, output, run
from s2s_infer.cli import COMMANDS, main
from s2s_infer.formats.native import load_native
from s2s_infer.generation import GENERATION_OPTIONS


@pytest.fixture(scope="module")
def model() -> Iterator[s2s_infer.Model]:
    with s2s_infer.load(CHECKPOINT) as model:
        yield model


TEXTS = ["今天天气很好", "", "hello world", "我很好", "good day", "天"]


# ---- translate ----


def test_texts_as_arguments(model: s2s_infer.Model) -> None:
    expected = model.translate(TEXTS, max_new_tokens=6)
    assert output("translate", "-m", CHECKPOINT, "--max-new-tokens", "6", *TEXTS) == "".join(
        f"{text}\n" for text in expected
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_of_stdin_and_files(model: s2s_infer.Model, tmp_path: Path, ending: str) -> None:
    lines = TEXTS * 100
    expected = "".join(f"{text}\n" for text in model.translate(lines, max_new_tokens=4))
    source = tmp_path / "in.txt"
    source.write_bytes(b"\xef\xbb\xbf" + ending.join(lines).encode())  # no end to the last line
    target = tmp_path / "out.txt"
    options = ("-m", CHECKPOINT, "--max_new_tokens=4")
    assert output("translate", *options, "-i", str(source), "-o", str(target)) == ""
    assert target.read_text(encoding="utf-8") == expected
    assert output("translate", *options, stdin=source.read_bytes()) == expected
    assert (
        output("translate", *options, "-i", "-", "-o", "-", stdin=source.read_bytes()) == expected
    )


def test_empty_input_gives_empty_output() -> None:
    assert output("translate", "-m", CHECKPOINT) == ""
    assert output("translate", "-m", CHECKPOINT, stdin="\n\n") == "\n\n"


def test_json_has_all_fields(model: s2s_infer.Model) -> None:
    options = ("--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "5")
    text = output("translate", "-m", CHECKPOINT, "--json", *options, stdin="天气\n\n")
    assert "\\u" not in text
    first, second = (json.loads(line) for line in text.splitlines())
    (expected, _) = model.generate(
        ["天气", ""], num_beams=3, num_return_sequences=2, max_new_tokens=5
    )
    assert first == expected.to_dict()
    assert len(first["hypotheses"]) == 2
    assert second["text"] == "" and second["finish_reason"] == "eos"


def test_target_language_and_text_with_a_hyphen(model: s2s_infer.Model) -> None:
    result = json.loads(
        output(
            "translate", "-m", CHECKPOINT, "--to", "zh", "--json", "--max-new-tokens=2", "--", "-天"
        )
    )
    assert result["input_ids"][0] == model.special_tokens.languages["zh"]


def test_several_hypotheses_are_several_lines() -> None:
    options = ("--num-beams=4", "--num-return-sequences=4", "--max-new-tokens=4")
    assert len(output("translate", "-m", CHECKPOINT, *options, "a", "b").splitlines()) == 8


def test_hypotheses_that_are_not_there_are_empty_lines() -> None:
    options = ("--num-beams=4", "--num-return-sequences=3", "--max-new-tokens=1")
    forced = ("--forced-bos-token-id=5", "3 4 0", "4 0")
    lines = output("generate", "-m", IDS_ONLY, "--ids", *options, *forced)
    assert lines == "5\n\n\n" * 2


def test_flags_for_every_option_in_both_spellings() -> None:
    text = output("generate", "--help")
    values = {"": [], "N": ["1"], "X": ["0.5"], "ID[,ID...]": ["3,4"], "ID[,ID...][;...]": ["3;4"]}
    values["true|false|never"] = ["never"]
    for name, option in GENERATION_OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        assert f"{flag} " in text or f"{flag}\n" in text, name
        if name in ("max_length", "repetition_stop"):
            continue
        value = values[option.metadata["kind"].metavar]
        for spelling in (flag, "--" + name):
            assert main(["translate", "-m", CHECKPOINT, "-q", spelling, *value, ""]) == 0, name


def test_switches_can_be_turned_off(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["translate", "-m", CHECKPOINT, "--do-sample", "--no-do-sample", ""]) == 0
    assert b"seed" not in capfdbinary.readouterr().out


def test_a_limit_that_ended_an_output_is_told_unless_it_was_asked_for() -> None:
    arguments = ("generate", "-m", IDS_ONLY, "--ids", "--suppress-tokens", "0", "3 4 0", "5 6 0")
    done = run(*arguments, "--repetition-stop", "0")
    assert done.returncode == 0
    assert done.stderr.decode() == (
        "s2s-infer: note: the output of argument 1 (and 1 more) stopped at the output limit "
        "(--max-new-tokens)\n"
    )
    assert run(*arguments, "--repetition-stop", "0", "-q").stderr == b""
    assert run(*arguments, "--max-new-tokens", "5").stderr == b""


def test_output_line_breaks_do_not_shift_lines() -> None:
    from io import BytesIO

    from s2s_infer.cli.lines import LineWriter

    file = BytesIO()
    LineWriter(file, flush=False).write("a\nb\r\nc\rd")
    assert file.getvalue() == b"a b c d\n"


# ---- the other commands ----


def test_help_and_version() -> None:
    for arguments in ((), ("--help",)):
        text = run(*arguments)
        assert text.returncode == (0 if arguments else 2)
    text = output("--help")
    for command in COMMANDS:
        assert f"  {command}" in text
        helped = output(command, "--help")
        assert (helped.startswith(f"usage: s2s-infer {command}") and "example" in helped) or (
            command == "info"
        )
    assert output("--version").startswith("s2s-infer ")


def test_lines_that_share_a_prompt() -> None:
    """--prompt gives what whole lines give, and says how much was not read again."""
    options = ("-m", str(FIXTURES / "families" / "llama"), "--ids", "--max-new-tokens", "5")
    lines = ["7 8 9", "10", "11 12"]
    whole = output("generate", *options, stdin="".join(f"3 4 5 6 {line}\n" for line in lines))
    shared = output("generate", *options, "--prompt", "3 4 5 6", stdin="\n".join(lines) + "\n")
    assert shared == whole and len(shared.splitlines()) == 3
    found = output("generate", *options, "--prompt", "3 4 5 6", "--json", "7 8 9")
    assert json.loads(found)["n_reused"] == 4
    assert json.loads(found)["input_ids"] == [3, 4, 5, 6, 7, 8, 9]
    message = error("translate", "-m", IDS_ONLY, "--prompt", "3", "4")
    assert "--prompt" in message
    message = error("generate", "-m", IDS_ONLY, "--ids", "--prompt", "3", "4")
    assert "a prompt is for a decoder alone" in message


def test_generate_with_ids_needs_no_tokenizer() -> None:
    with s2s_infer.load(IDS_ONLY) as model:
        expected = model.generate_ids([[3, 4, 0], [], [5, 0]], prefix=[7], max_new_tokens=5)
    lines = "".join(" ".join(map(str, r.token_ids)) + "\n" for r in expected)
    options = ("-m", IDS_ONLY, "--ids", "--target-prefix", "7", "--max-new-tokens", "5")
    assert output("generate", *options, stdin="3 4 0\n\n5 0\n") == lines
    assert output("generate", *options, "3 4 0", "", "5 0") == lines


def test_score(model: s2s_infer.Model, tmp_path: Path) -> None:
    (expected,) = model.score(["hello"], ["天气"])
    assert output("score", "-m", CHECKPOINT, "hello", "天气") == f"{expected.score:.6f}\n"
    sources, targets = tmp_path / "sources", tmp_path / "targets"
    sources.write_text("hello\nhello\n", encoding="utf-8")
    targets.write_text("天气\n\n", encoding="utf-8")
    files = ("--sources", str(sources), "--targets", str(targets))
    first, second = output("score", "-m", CHECKPOINT, *files, "--json").splitlines()
    assert json.loads(first) == expected.to_dict()
    assert json.loads(second)["token_ids"] == []
    targets.write_text("天气\n", encoding="utf-8")
    assert "has only 1 lines" in error("score", "-m", CHECKPOINT, *files)
    assert "give SOURCE and TARGET" in error("score", "-m", CHECKPOINT, "hello")


def test_info(model: s2s_infer.Model) -> None:
    text = output("info", CHECKPOINT)
    for words in (
        "2 layers, 4 heads of 8",
        "start ",
        "languages ",
        "threads ",
        "forced_eos_token_id",
    ):
        assert words in text
    assert json.loads(output("info", "-m", CHECKPOINT, "--json")) == model.info()


def test_info_verifies_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.s2s"
    output("convert", CHECKPOINT, str(path))
    assert "checksum        SHA-256, fits" in output("info", str(path), "--verify")
    assert (
        json.loads(output("info", str(path), "--verify", "--json"))["checksum"] == "SHA-256, fits"
    )
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    output("info", str(path))
    assert "is damaged" in error("info", str(path), "--verify")
    assert "is a directory" in error("info", CHECKPOINT, "--verify")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_convert(tmp_path: Path, dtype: str) -> None:
    target = tmp_path / "model.s2s"
    assert dtype in output("convert", CHECKPOINT, str(target), "--dtype", dtype)
    options = ("--max-new-tokens", "6", "--json", "天气")
    converted = output("translate", "-m", str(target), *options)
    assert converted == output("translate", "-m", CHECKPOINT, "--dtype", dtype, *options)
    assert "exists; --force replaces it" in error("convert", CHECKPOINT, str(target))
    assert output("convert", CHECKPOINT, str(target), "--force", "-q") == ""
    assert "is a directory" in error("convert", CHECKPOINT, str(tmp_path))
    assert "there is no model" in error("convert", str(tmp_path / "none"), str(tmp_path / "x.s2s"))
    assert not (tmp_path / "x.s2s").exists()


def test_convert_checks_the_result(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    target, file = tmp_path / "model.s2s", tmp_path / "text.tsv"
    file.write_text("good day\t天气\nhello\t天\n", encoding="utf-8")
    command = ("convert", CHECKPOINT, str(target), "--force", "--dtype")
    same = output(*command, "float32", "--check", str(file))
    assert "same output       100.00%" in same and "token agreement   100.00%" in same
    assert "difference        BLEU +0.00, chrF +0.00" in same
    assert "int8 beside float32" in output(*command, "int8", "--check", str(file))
    file.write_text("good day\n", encoding="utf-8")
    found = output(*command, "float32", "--check", str(file), "--num-beams", "2")
    assert "against float32" in found and "chrF 100.00" in found
    assert "is for --check" in error(*command, "int8", "--num-beams", "2")
    assert "No such file" in error(*command, "int8", "--check", str(tmp_path / "none"))
    file.write_text("\n", encoding="utf-8")
    assert "has no lines" in error(*command, "int8", "--check", str(file))


def test_convert_rounds_for_a_text(tmp_path: Path) -> None:
    plain, target, file = (tmp_path / name for name in ("plain.s2s", "model.s2s", "text.tsv"))
    file.write_text("good day\t天气\nhello\t天\nthe weather is good\tx\n", encoding="utf-8")
    options = ("--dtype", "int8", "-q")
    output("convert", CHECKPOINT, str(plain), *options)
    output("convert", CHECKPOINT, str(target), *options, "--calibrate", str(file))
    ours, theirs = (load_native(path).tensors for path in (target, plain))
    assert set(ours) == set(theirs)
    changed = {name for name, array in ours.items() if array.tobytes() != theirs[name].tobytes()}
    # every matrix that met an input, and nothing but codes and their sums
    assert {name.removesuffix(".sum") for name in changed} == {
        name for name, array in ours.items() if array.dtype == np.int8
    }
    assert output("translate", "-m", str(target), "--max-new-tokens", "4", "天气")
    convert = ("convert", CHECKPOINT, str(target), "--force", "--calibrate", str(file))
    assert "--calibrate is for --dtype int8 and int4" in error(*convert)
    assert "--to is for" in error("convert", CHECKPOINT, str(tmp_path / "x.s2s"), "--to", "en")


def test_check_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from s2s_infer.cli import fidelity

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(s2s_infer.OptionError, match=r"pip install 's2s-infer\[check\]'"):
        fidelity.sacrebleu()


def test_trace(model: s2s_infer.Model, tmp_path: Path) -> None:
    file = tmp_path / "trace.npz"
    listed = output("trace", "-m", CHECKPOINT, "good", "--target", "天", "-o", str(file))
    expected = model.trace("good", "天")
    with np.load(file) as arrays:
        assert set(arrays) == set(expected)
        for name, array in expected.items():
            assert np.array_equal(arrays[name], array)
            assert name in listed
    assert "must end with .npz" in error("trace", "-m", CHECKPOINT, "good", "-o", "x.txt")


# ---- wrong input ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a command is missing"),
        (("translat",), "no command 'translat'; did you mean 'translate'?"),
        (("translate", "--num-beem", "3", "x"), "did you mean '--num-beams'?"),
        (("translate", "-x", "y"), "put -- before texts"),
        (("translate", "--num-beams", "many", "x"), "--num-beams must be an integer"),
        (("translate", "--num-beams"), "--num-beams"),
        (("translate", "--early-stopping", "perhaps", "x"), "must be true, false or never"),
        (("translate", "--bad-words-ids", "1,a", "x"), "--bad-words-ids must be"),
        (("translate", "--threads", "two", "x"), "--threads must be an integer, not 'two'"),
        (("translate", "-i", "a", "b"), "either texts or --input"),
        (("translate", "-m", "nowhere", "x"), "there is no model at nowhere."),
        (("translate", "-m", CHECKPOINT, "--num-beams", "0", "x"), "num_beams must be"),
        (("translate", "-m", CHECKPOINT, "--top-p", "2", "x"), "top_p must be"),
        (("translate", "-m", CHECKPOINT, "--to", "de", "x"), "unknown target language 'de'"),
        (("translate", "-m", CHECKPOINT, "--isa", "mmx", "x"), "isa must be one of"),
        (("translate", "-m", CHECKPOINT, "--threads", "0", "x"), "threads must be from 1"),
        (("translate", "-m", CHECKPOINT, "--dtype", "int3", "x"), "dtype must be one of"),
        (("translate", "-m", CHECKPOINT, "--kv-dtype", "int3", "x"), "kv_dtype must be one of"),
        (("translate", "-m", CHECKPOINT, "-i", "nowhere.txt"), "nowhere.txt: No such file"),
        (("translate", "-m", CHECKPOINT, "-i", "/"), "/: Is a directory"),
        (("translate", "-m", CHECKPOINT, "-o", "/nowhere/x", "x"), "/nowhere/x: No such file"),
        (("translate", "-m", CHECKPOINT, "hello " * 50), "argument 1 has"),
        (("translate", "-m", IDS_ONLY, "x"), "no source.spm and no tokenizer.json"),
        (("generate", "-m", IDS_ONLY, "--ids", "3 x 0"), "argument 1 must be token ids"),
        (("generate", "-m", IDS_ONLY, "--ids", "3 99"), "argument 1 holds the token id 99"),
        (("generate", "-m", IDS_ONLY, "--ids", "--to", "en", "3"), "--to needs texts"),
        (("info", CHECKPOINT, "-m", CHECKPOINT), "give MODEL or -m, not both"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("s2s-infer: error: ") and written.err.count("\n") == 1
    assert words in written.err


def test_errors_name_the_line_and_come_after_the_lines_before() -> None:
    good = b"hello\n" * 3
    options = ("--to", "zh", "--max-new-tokens", "2")
    for bad, words in (
        (b"\xe4\xbd\n", "line 4 is not valid UTF-8: byte 0xe4 at offset 0"),
        (b"hello " * 50 + b"\n", "line 4 has "),
        (b">>en<< hello\n", "line 4: the text begins with the language code '>>en<<'"),
    ):
        done = run("translate", "-m", CHECKPOINT, *options, stdin=good + bad + good)
        assert done.returncode == 2
        assert len(done.stdout.splitlines()) == 3
        assert words in done.stderr.decode()


def test_input_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("hello\n", encoding="utf-8")
    link = tmp_path / "b.txt"
    link.symlink_to(file)
    assert "is the input file" in error(
        "translate", "-m", CHECKPOINT, "-i", str(file), "-o", str(link)
    )
    with file.open("rb") as stdin:
        done = subprocess.run(
            [*COMMAND, "translate", "-m", CHECKPOINT, "-o", str(link)],
            stdin=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2 and b"is the input file" in done.stderr
    assert file.read_text(encoding="utf-8") == "hello\n"


def test_full_disk_is_status_1() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert "No space left" in error(
        "translate", "-m", CHECKPOINT, "-o", "/dev/full", "hello", status=1
    )


def test_help_does_not_import_numpy() -> None:
    code = (
        "import sys; from s2s_infer.cli import main\n"
        "try: main(['translate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'numpy' not in sys.modules and 's2s_infer.model' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_translate_takes_a_target_prefix() -> None:
    options = ("-m", CHECKPOINT, "今天", "--target-prefix", "天气", "--max-new-tokens", "3", "-q")
    assert output("translate", *options).startswith("天气")


# ---- bench ----


def test_bench_measures_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "sources.txt").write_text("今天天气很好。\n你好\n他去学校了。\n", encoding="utf-8")
    small = ("--batch", "5", "--tokens", "3", "--beams", "2", "--seconds", "0.01")
    report = json.loads(
        output("bench", *small, "--text", str(tmp_path / "sources.txt"), "--to", "en", "--json")
    )
    names = [workload["name"] for workload in report["workloads"]]
    assert names == [
        "1 at a time, greedy",
        "1 at a time, beam 2",
        "5 at once, greedy",
        "5 at once, beam 2",
    ]
    for workload in report["workloads"]:
        speed = workload["engines"]["s2s-infer"]
        assert 0 < speed["least"] <= speed["tokens_per_second"] <= speed["most"]
    assert report["file"]["lines"] == 3
    assert 0 < report["seconds_to_open"] < report["seconds_to_first_token"]
    assert report["bytes_read_per_step"] < report["model"]["bytes"]
    text = output("bench", "-m", IDS_ONLY, *small)
    assert "random tokens; 3 tokens in each output" in text and "5 at once, beam 2" in text


def test_bench_says_what_is_wrong(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    for arguments, problem in (
        (("--batch", "0"), "--batch must be at least 1, not 0"),
        (("--text", str(empty)), "has no text"),
        (("--text", str(tmp_path / "none.txt")), "No such file"),
    ):
        done = run("bench", *arguments)
        assert done.returncode == 2 and problem in done.stderr.decode()
