"""The trainer around the network: vocabulary, batches, schedule, workers, checkpoints, the loop."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("tqdm")

from sentence_pairs import PAIRS
from tools.train import ops as reference
from tools.train import recipe
from tools.train.checkpoint import average_weights, load_state, load_weights, save_state
from tools.train.config import TrainConfig
from tools.train.data import pack
from tools.train.export_hf import rounded_to_bfloat16
from tools.train.generate import generate
from tools.train.layers.dropout import Dropout
from tools.train.layers.parameter import Parameters, count
from tools.train.loop import Trainer
from tools.train.model import Model, ModelConfig, initialize, parameter_shapes
from tools.train.parallel import Team, run_team, shared_array
from tools.train.schedule import learning_rate
from tools.train.translate import evaluate, translate
from tools.train.vocabulary import EOS, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")

ROOT = Path(__file__).parent.parent
# --------------------------------------------------------------------------------------- schedule


def test_schedules() -> None:
    assert learning_rate("inverse-sqrt", 1.0, 50, 100, 0.0) == 0.5
    assert learning_rate("inverse-sqrt", 1.0, 100, 100, 0.0) == 1.0
    assert learning_rate("inverse-sqrt", 1.0, 400, 100, 0.0) == 0.5
    assert learning_rate("cosine", 1.0, 100, 100, 0.5) == pytest.approx(0.51)
    assert learning_rate("cosine", 1.0, 500, 100, 1.0) == pytest.approx(0.02)
    assert learning_rate("constant", 1.0, 500, 100, 0.9) == 1.0
    with pytest.raises(ValueError, match="not 'linear'"):
        learning_rate("linear", 1.0, 1, 1, 0.0)


# ---------------------------------------------------------------------------------------- workers


def test_team_shares_memory_and_gathers_in_order() -> None:
    total = shared_array((3, 40))

    def work(team: Team) -> list[Any] | None:
        total[team.rank] = team.rank + 1
        team.wait()
        own = team.share(40)
        sums = total[:, own].sum()
        return team.gather((team.rank, own.start, own.stop, float(sums)))

    parts = run_team(3, work)
    assert [part[0] for part in parts] == [0, 1, 2]
    assert [part[1] for part in parts[1:]] == [part[2] for part in parts[:-1]]
    assert (parts[0][1], parts[-1][2]) == (0, 40)
    assert sum(part[3] for part in parts) == 40 * 6


def test_a_failed_worker_ends_the_team(capfd: pytest.CaptureFixture[str]) -> None:
    def work(team: Team) -> None:
        if team.rank == 1:
            raise ValueError("worker one is ill")
        team.wait()

    with pytest.raises(RuntimeError, match="a training worker has failed"):
        run_team(2, work)
    assert "worker one is ill" in capfd.readouterr().err


# --------------------------------------------------------------------------------------- decoding


def test_cached_decoding_follows_the_full_forward_pass(vocabulary: Vocabulary) -> None:
    """Greedy ids are the argmax of teacher-forced logits on these very ids."""
    config = ModelConfig(
        len(vocabulary), d_model=16, d_ffn=24, n_heads=2, n_encoder_layers=2, n_decoder_layers=2
    )
    shapes = parameter_shapes(config)
    buffer = np.random.default_rng(2).normal(0, 0.3, count(shapes)).astype(np.float32)
    model = Model(config, Parameters(shapes, buffer), reference.load("numpy"))
    sources = vocabulary.encode_source([zh for zh, _ in PAIRS], "en")
    outputs = generate(model, sources, vocabulary.pad, batch_sentences=3)
    assert outputs == generate(model, sources, vocabulary.pad, batch_sentences=8)
    batch = pack(sources, [[*row, EOS] for row in outputs], vocabulary.pad)
    logits, _ = model.forward(batch, Dropout())
    logits[:, vocabulary.pad] = -np.inf
    best = logits.argmax(axis=1)
    for i, row in enumerate(outputs):
        start = batch.target_offsets[i]
        assert best[start : start + len(row)].tolist() == row
    assert any(outputs)


# ------------------------------------------------------------------------------------------- loop


def config_of(pairs_folder: Path, vocabulary: Vocabulary, out: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        data=str(pairs_folder), vocab=str(vocabulary.directory), out=str(out),
        d_model=16, d_ffn=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, epochs=3,
        batch_tokens=40, warmup_steps=4, ema_decay=0.9, subword_alpha=0.2, rdrop_alpha=1.0,
        valid_bleu=False, workers=2, ops="numpy",
    )  # fmt: skip
    return replace(config, **changes)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_repeats_bit_for_bit_and_resumes(
    pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Two runs agree; so does one that was stopped in the middle of an epoch and resumed."""
    whole, again, cut_off = (tmp_path / name for name in ("whole", "again", "cut"))
    for out in (whole, again):
        Trainer(config_of(pairs_folder, vocabulary, out)).run()
    want = load_weights(whole / "epoch-0003.safetensors")[1]
    assert np.array_equal(want, load_weights(again / "epoch-0003.safetensors")[1])
    assert np.abs(want).max() > 0

    first = Trainer(config_of(pairs_folder, vocabulary, cut_off, save_every=1))
    plain_step, taken = first._step, 0

    def step_until_stopped(*args: Any) -> dict[str, Any]:
        nonlocal taken
        taken += 1
        if taken == 6:
            raise KeyboardInterrupt
        return plain_step(*args)

    first._step = step_until_stopped  # type: ignore[method-assign]
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        first.run()
    resumed = Trainer(config_of(pairs_folder, vocabulary, cut_off), resume=True)
    assert resumed.counters["step"] == 5
    resumed.run()
    assert np.array_equal(want, load_weights(cut_off / "epoch-0003.safetensors")[1])
    assert [r["step"] for r in records(cut_off)] == [r["step"] for r in records(whole)]


def test_number_of_workers_changes_only_rounding(
    pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Without dropout, the sum over two workers is the gradient of one."""
    results = []
    for n in (1, 2):
        off = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
        config = config_of(pairs_folder, vocabulary, tmp_path / str(n), workers=n, **off)
        Trainer(config).run()
        model_config, buffer = load_weights(tmp_path / str(n) / "epoch-0003.safetensors")
        results.append(Parameters(parameter_shapes(model_config), buffer))
    for name, one in results[0].items():
        # the gradient of this bias is zero but for rounding, which Adam scales up
        if not name.endswith("k_proj.bias"):
            assert np.abs(one.value - results[1][name].value).max() < 1e-4, name
    losses = [records(tmp_path / str(n))[-1]["valid_nll"] for n in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_training_learns_and_everything_after_it_works(
    pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """A tiny model learns its eight pairs by heart; average, evaluate, translate, plot follow."""
    out = tmp_path / "run"
    config = config_of(
        pairs_folder, vocabulary, out, d_model=32, d_ffn=64, epochs=100, valid_every=40,
        valid_bleu=True, workers=1, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        rdrop_alpha=0.0, subword_alpha=0.0, learning_rate=5e-3, warmup_steps=20, batch_tokens=160,
        keep_last=2,
    )  # fmt: skip
    assert Trainer(config).run()["best"] > 90
    validations = [r for r in records(out) if "bleu" in r]
    assert len(validations) == 3
    assert {"bleu_zh_en", "chrf_zh_en", "bleu_en_zh", "chrf_en_zh"} < validations[-1].keys()
    kept = sorted(out.glob("epoch-*.safetensors"))
    assert [path.stem for path in kept] == ["epoch-0099", "epoch-0100"]
    average_weights(kept, out / "average.safetensors")
    scores = evaluate(
        out / "average.safetensors", vocabulary.directory, pairs_folder / "valid.tsv", "numpy"
    )
    assert scores["bleu"] > 90
    text, *_ = translate(
        out / "average.safetensors", vocabulary.directory, ["今天天气很好。"], "en", ops="numpy"
    )
    assert text == "The weather is nice today."
    with pytest.raises(FileExistsError, match="holds a run already"):
        Trainer(config)


def test_plot_draws_a_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tools.train.plot import plot

    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 10, "loss": 2.0, "nll": 1.9, "lr": 0.1, "grad_norm": 1.0}\n'
        '{"step": 20, "valid_nll": 1.5, "bleu_zh_en": 3.0, "bleu_en_zh": 4.0}\n'
    )
    plot([log], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    log.write_text("not json\n")
    with pytest.raises(ValueError, match=r"log\.jsonl:1 is not JSON"):
        plot([log], tmp_path / "plot.png")


def test_extra_pairs_go_one_way(pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Synthetic sources (back-translation) must never become targets."""
    extra = tmp_path / "extra.tsv"
    extra.write_text("茶好。\tNice tea.\n", encoding="utf-8")
    trainer = Trainer(config_of(pairs_folder, vocabulary, tmp_path / "run", extra_zh_en=str(extra)))
    added = trainer.corpus.pairs[2 * len(PAIRS) :]
    assert [(p.source, p.target, p.to) for p in added] == [("茶好。", "Nice tea.", "en")]


def test_early_stop(pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    config = config_of(
        pairs_folder, vocabulary, tmp_path, epochs=30, learning_rate=0.0, patience=2, ema_decay=0.0
    )
    counters = Trainer(config).run()
    assert counters["epoch"] == 3  # the first validation is the best, two more are not better


def test_gradient_that_is_not_finite_stops_with_a_sentence(
    pairs_folder: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    trainer = Trainer(config_of(pairs_folder, vocabulary, tmp_path, workers=1))
    trainer.weights[:] = math.inf
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="step 1: the gradient"):
        trainer.run()


# ------------------------------------------------------------------------------------ checkpoints


def test_state_of_another_size_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"weights": np.zeros(4, np.float32)}, {"step": 3})
    vector = np.ones(4, np.float32)
    assert load_state(tmp_path / "state", {"weights": vector}) == {"step": 3}
    assert not vector.any()
    with pytest.raises(ValueError, match=r"weights should be \(5,\), found \(4,\)"):
        load_state(tmp_path / "state", {"weights": np.ones(5, np.float32)})
    with pytest.raises(ValueError, match="is no weights file"):
        load_weights(tmp_path / "state")


def test_initialization_is_depth_scaled() -> None:
    config = ModelConfig(20, d_model=64, d_ffn=64, n_heads=2, n_encoder_layers=4)
    shapes = parameter_shapes(config)
    named = Parameters(shapes, np.zeros(count(shapes)))
    initialize(config, named, 1, depth_scaled=True)
    first, last = (named[f"encoder.layers.{i}.fc1.weight"].value.std() for i in (0, 3))
    assert first / last == pytest.approx(2, rel=0.05)
    assert np.all(named["encoder.layers.0.final_layer_norm.weight"].value == 1)
    assert not named["final_logits_bias"].value.any()


# -------------------------------------------------------------------------------------------- CLI


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.train", *args], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"PYTHONWARNINGS": "default"}, timeout=120, check=False,
    )  # fmt: skip


def test_help_names_every_command() -> None:
    result = command("--help")
    assert result.returncode == 0
    for name in ("vocab", "train", "average", "evaluate", "export", "plot", "toy", "recipe"):
        assert name in result.stdout


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    result = command("train", "--data", str(tmp_path), "--vocab", str(tmp_path), "--out",
                     str(tmp_path / "out"))  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.strip().endswith("is no vocabulary: source.spm is missing")
    assert "Traceback" not in result.stderr


# ----------------------------------------------------------------------------------------- recipe


def small_recipe() -> dict[str, Any]:
    return {
        "vocabulary": {"size": 57, "character_coverage": 1.0, "byte_fallback": False},
        "train": {
            "d_model": 16, "d_ffn": 32, "n_heads": 2, "n_encoder_layers": 1,
            "n_decoder_layers": 1, "warmup_steps": 5, "workers": 1, "ops": "numpy",
        },
        "stages": [
            {"epochs": 2, "batch_tokens": 60},
            {"epochs": 4, "batch_tokens": 40, "schedule": "cosine"},
        ],
        "bfloat16_weights": True,
    }  # fmt: skip


def test_recipe_runs_its_stages_once(pairs_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(small_recipe()))
    recipe.run(pairs_folder, tmp_path / "out", path)
    out = tmp_path / "out" / "training"
    assert json.loads((out / "train_config.json").read_text())["schedule"] == "cosine"
    assert [r["epoch"] for r in records(out) if "bleu" in r] == [1, 2, 3, 4]
    assert load_state(out / "state.safetensors", {})["epoch"] == 4
    stamp = (out / "state.safetensors").stat().st_mtime_ns
    recipe.run(pairs_folder, tmp_path / "out", path)
    assert (out / "state.safetensors").stat().st_mtime_ns == stamp, "trained a second time"


def test_engine_reads_what_the_recipe_made(pairs_folder: Path, tmp_path: Path) -> None:
    """Directory and native file give the ids that the trainer's own decoding gives."""
    s2s_infer = pytest.importorskip("s2s_infer")
    (tmp_path / "recipe.json").write_text(json.dumps(small_recipe()))
    recipe.run(pairs_folder, tmp_path, tmp_path / "recipe.json")
    vocabulary = Vocabulary(tmp_path / "vocabulary")
    sources = vocabulary.encode_source([zh for zh, _ in PAIRS], "en")
    wanted = []
    for name in ("best", "average"):  # whichever scored higher was exported
        config, buffer = load_weights(tmp_path / "training" / f"{name}.safetensors")
        named = Parameters(parameter_shapes(config), rounded_to_bfloat16(buffer))
        outputs = generate(Model(config, named, reference.load("numpy")), sources, vocabulary.pad)
        wanted.append([row[:12] for row in outputs])
    for name in ("model", "model.s2s"):
        with s2s_infer.load(tmp_path / name) as model:
            results = model.generate_ids(sources, num_beams=1, max_new_tokens=12)
        assert [list(result.token_ids) for result in results] in wanted


def test_recipe_with_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    wrong = small_recipe()
    wrong["train"]["dropuot"] = 0.3
    (tmp_path / "recipe.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="unknown: dropuot"):
        recipe.read_recipe(tmp_path / "recipe.json")


def test_bundled_recipe_is_valid() -> None:
    assert recipe.read_recipe()["stages"]
