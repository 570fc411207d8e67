"""The benchmark runs, and says what it measured: sizes of no time, no judgement of speed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import s2s_infer
from s2s_infer.cost import costs
from s2s_infer.loaders import load_checkpoint

pytest.importorskip("safetensors")

from tools.bench.__main__ import main
from tools.bench.engines import Call, Worker
from tools.bench.growth import cliffs
from tools.bench.limits import Limits, least_seconds
from tools.bench.models import SHAPES, make
from tools.bench.profile import shares_of_time
from tools.bench.sentences import sentence_pairs
from tools.bench.steady import slope
from tools.bench.workloads import WORKLOADS, calls


def test_benchmark_of_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "speed load growth memory --models smoke --dtypes int8 --threads 1 --rounds 1"
    arguments += " --seconds 0.01 --requests 40 --largest 8 --no-peers"
    main([*arguments.split(), "--keep", str(tmp_path / "models"), "--out", str(tmp_path)])
    report = json.loads((tmp_path / "results.json").read_text())
    rows = report["table"]
    assert [row["workload"] for row in rows] == [w.name for w in WORKLOADS if w.kind != "file"]
    for row in rows:
        assert row["engines"]["s2s-infer"]["tokens_per_second"] > 0
        assert not report["limits"] or row["limit"]["share"] > 0
    (load,) = report["footprint"]
    first = load["engines"]["s2s-infer"]
    assert first["seconds_to_first_token"] > 0
    assert first["before"]["resident"] < first["at_first_token"]["resident"]
    assert report["growth"]["sweeps"]["batch"]["x"] == [1, 2, 4, 8]
    assert [run["n_requests"] for run in report["steady"]["runs"]] == [40, 40]
    written = (tmp_path / "results.md").read_text()
    assert written in capsys.readouterr().out
    assert "32 at once, beam 4" in written and s2s_infer.__version__ in written


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("growth --largest 7", "argument --largest: must be at least 8, not 7"),
        ("--threads 1 0", "argument --threads: must be at least 1, not 0"),
        ("--rounds two", "argument --rounds: invalid integer value: 'two'"),
        ("--seconds -1", "argument --seconds: must be a finite number above 0, not -1"),
        ("--seconds inf", "argument --seconds: must be a finite number above 0, not inf"),
        ("--seconds nan", "argument --seconds: must be a finite number above 0, not nan"),
        ("speeds", "there is no part 'speeds': the parts are speed, load"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments.split())
    assert raised.value.code == 2 and words in capsys.readouterr().err


def test_shares_of_time_are_parts_of_one() -> None:
    one = {"wall": 2.0, "profile": {"output": (1.5, 9), "search": (0.1, 9), "wait": (0.0, 0)}}
    assert shares_of_time(one) == {"output": 0.75, "search": 0.05, "python": 0.2}
    lanes = {"wall": 2.0, "profile": {"output": (3.0, 9), "search": (1.0, 9)}}
    assert shares_of_time(lanes) == {"output": 0.75, "search": 0.25, "python": 0.0}


def test_parts_that_have_no_model_say_so(tmp_path: Path) -> None:
    main(["growth", "--models", "built-in", "--no-peers", "--out", str(tmp_path)])
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert "Skipped: growth, which need a model of random weights." in notes


def test_benchmark_of_a_file(tmp_path: Path) -> None:
    lines = [f"{zh}\t{en}" for zh, en in sentence_pairs(None)[1][:40]]
    (tmp_path / "lines.tsv").write_text("\n".join(lines), encoding="utf-8")
    arguments = "speed --models built-in --dtypes int8 --threads 1 --rounds 1 --seconds 0.01"
    arguments += f" --no-peers --text {tmp_path / 'lines.tsv'}"
    main([*arguments.split(), "--keep", str(tmp_path / "models"), "--out", str(tmp_path)])
    report = json.loads((tmp_path / "results.json").read_text())
    assert [row["workload"] for row in report["table"]] == [w.name for w in WORKLOADS]
    rows = report["continuous"]["rows"]
    assert [(row["threads"], row["beams"]) for row in rows] == [(1, 1), (1, 4)]
    assert all(min(row["tokens_per_second"].values()) > 0 for row in rows)
    written = (tmp_path / "results.md").read_text()
    assert "lines.tsv" in written and "Continuous batching" in written
    assert str(tmp_path) not in written  # read on other machines


@pytest.mark.reference
@pytest.mark.parametrize("engine", ["CTranslate2", "onnxruntime", "transformers"])
def test_engines_do_the_same_work(tmp_path: Path, engine: str) -> None:
    """Each has the same model: its greedy outputs are ours, token for token."""
    needed = {"CTranslate2": "ctranslate2"}.get(engine, engine)
    for package in (needed, "torch", "transformers", "onnx"):
        pytest.importorskip(package)
    model = make("smoke", tmp_path)
    paths = {
        "s2s-infer": lambda: model.native("float32"),
        "CTranslate2": lambda: model.ctranslate2("float32"),
        "onnxruntime": lambda: model.onnx("float32"),
        "transformers": lambda: model.directory / "hf",
    }
    work = [Call(model.sources.ids[:12], 1, 7)]
    outputs = []
    for name in ("s2s-infer", engine):
        with Worker(name, paths[name](), "float32", 1) as worker:
            outputs.append(worker.run(work, outputs=True)["outputs"])
    assert outputs[0] == outputs[1]


@pytest.mark.reference
def test_files_are_the_same_work(tmp_path: Path) -> None:
    """Of the bench's own sentences too, some of whose outputs repeat themselves to the limit."""
    for package in ("ctranslate2", "torch", "transformers"):
        pytest.importorskip(package)
    model = make("built-in", tmp_path)
    n_tokens = []
    for name, path in (
        ("s2s-infer", model.native("int8")),
        ("CTranslate2", model.ctranslate2("int8")),
    ):
        with Worker(name, path, "int8", 1) as worker:
            outputs = worker.run([Call(model.sources.ids, 1, None)], outputs=True)["outputs"]
            n_tokens.append(sum(map(len, outputs)))
    assert n_tokens[0] == pytest.approx(n_tokens[1], rel=0.02)


def test_workloads_do_what_they_say(tmp_path: Path) -> None:
    sources = make("smoke", tmp_path).sources
    for workload in WORKLOADS:
        work = calls(workload, "smoke", sources)
        assert all(call.beams == workload.beams for call in work)
        sizes = {len(call.sources) for call in work}
        assert sizes == {{"one": 1, "batch": 32, "file": len(sources.ids)}[workload.kind]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_costs_are_those_of_the_shape(tmp_path: Path, dtype: str) -> None:
    n_encoder, n_decoder, d, d_ffn, _, n_vocabulary = SHAPES["smoke"]
    model = make("smoke", tmp_path)
    found = costs(load_checkpoint(model.native(dtype), dtype=dtype))
    padded = -(-n_vocabulary // 16) * 16
    assert found.encoder.n_weights == n_encoder * (4 * d * d + 2 * d * d_ffn)
    assert found.cross_kv.n_weights == n_decoder * 2 * d * d
    assert found.step.n_weights == n_decoder * (6 * d * d + 2 * d * d_ffn) + padded * d
    size = {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]
    assert found.step.n_bytes == size * found.step.n_weights


def test_limit_is_bandwidth_for_few_rows_and_operations_for_many(tmp_path: Path) -> None:
    model = make("smoke", tmp_path)
    found = costs(load_checkpoint(model.native("float32"), dtype="float32"))
    limits = Limits(1, {1 << 10: 1e9, 1 << 30: 1e9}, {"float32": 1e9})
    one, many = (calls(WORKLOADS[i], "smoke", model.sources)[0] for i in (0, 2))
    n_source, n_target = len(one.sources[0]), one.n_target
    assert n_target is not None
    passes = found.encoder, found.cross_kv
    # reading takes 4 s a giga-weight, computing 2 s a row
    expected = sum(max(4, 2 * n_source) * cost.n_weights for cost in passes)
    expected += n_target * 4 * found.step.n_weights
    assert least_seconds(limits, found, "float32", [one]) == pytest.approx(expected * 1e-9)
    expected = sum(32 * 2 * n_source * cost.n_weights for cost in passes)
    expected += n_target * 32 * 2 * found.step.n_weights
    assert least_seconds(limits, found, "float32", [many]) == pytest.approx(expected * 1e-9)


def test_cliffs() -> None:
    xs = [1, 2, 4, 8]
    assert cliffs(xs, [1.0, 1.1, 1.3, 1.7], growing=True) == []  # a straight line
    assert cliffs(xs, [1.0, 2.0, 4.0, 8.0], growing=True) == []  # one through zero
    assert cliffs(xs, [1.0, 1.1, 3.9, 4.3], growing=True) == [4]
    assert cliffs([1, 2, 4], [1.0, 0.6, 0.7], growing=False) == [4]


def test_slope() -> None:
    xs = np.arange(10.0)
    assert slope(list(xs), list(3 * xs + 5)) == pytest.approx(3)
