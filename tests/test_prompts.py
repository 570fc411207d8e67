"""Prompts that are read once: the same bits as whole inputs, whatever shares them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import parity
import parity_families as families
import s2s_infer
from s2s_infer import OptionError, _core
from s2s_infer.calls import Call
from s2s_infer.loaders import load_checkpoint
from test_decoder_alone import NAMES, prompts, with_words

__all__ = ["with_words"]  # a fixture

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "without scores": {"return_scores": False},
    "beams": {"num_beams": 4, "num_return_sequences": 3, "no_repeat_ngram_size": 3},
    "samples": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_k": 20},
    "alternatives": {"return_alternatives": 3, "repetition_penalty": 1.3},
    "prefix": {"prefix": [7, 8, 9]},
}


def bits(results: list[s2s_infer.GenerationResult]) -> list[Any]:
    return [
        (result.input_ids, [h.to_dict() for h in result.hypotheses], result.seed)
        for result in results
    ]


def wide(name: str, **stack: Any) -> s2s_infer.Model:
    """A fixture of rotary positions with room for more of them."""
    checkpoint = load_checkpoint(families.FIXTURES / name)
    decoder = replace(checkpoint.config.decoder, max_positions=1000, **stack)
    return s2s_infer.Model(
        replace(checkpoint, config=replace(checkpoint.config, decoder=decoder)), threads=2
    )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_as_the_whole_input(name: str, option: str, dtype: str) -> None:
    start, *rest = prompts((21, 1, 4, 17, 9))
    options = {"max_new_tokens": 8, **OPTIONS[option]}
    with s2s_infer.load(families.FIXTURES / name, dtype=dtype) as model:
        prompt = model.prompt(start)
        whole = model.generate_ids([[*start, *row] for row in rest], **options)
        shared = model.generate_ids(rest, prompt=prompt, **options)
        assert bits(shared) == bits(whole)
        assert [r.n_reused for r in shared] == [21] * 4
        assert [r.n_reused for r in whole] == [0] * 4
        # the prompt alone: its last token must be read for what comes after it
        (alone,) = model.generate_ids([[]], prompt=prompt, **options)
        assert alone.n_reused == 20
        assert bits([alone]) == bits(model.generate_ids([start], **options))


@pytest.mark.parametrize("stack", [{}, {"window": 5}, {"window": 5, "full_layers": (1,)}], ids=str)
def test_windows_blocks_and_partial_reuse(stack: dict[str, Any]) -> None:
    """Prompts longer than a block and than a window's ring; many requests, of few rows at once."""
    start, *rest = prompts((300, 3, 150, 40, 1))
    with wide("llama", **stack) as model:
        prompt = model.prompt(start)
        for options in ({}, {"num_beams": 3}):
            whole = model.generate_ids(
                [[*start, *row] for row in rest], max_new_tokens=9, **options
            )
            shared = model.generate_ids(rest * 9, prompt=prompt, max_new_tokens=9, **options)
            assert bits(shared) == bits(whole) * 9
        scores = model.score([[*start, *row] for row in rest], rest)
        assert [(s.token_logprobs, s.score) for s in scores] == [
            (s.token_logprobs, s.score) for s in model.score(rest, rest, prompt=prompt)
        ]
        assert [s.n_reused for s in model.score([[]], rest[:1], prompt=prompt)] == [299]
        # requests that leave the prompt in its midst take what is the same
        core = model._open()
        for n in (1, 4, 120, 133, 299):
            row = [*start[:n], 3, *rest[2]]
            call = Call(core, {"max_new_tokens": 9}, prompt=prompt)
            (found,) = call.run_all([call.job(row, [], "row")])
            assert found.n_reused == n
            assert bits([found]) == bits(model.generate_ids([row], max_new_tokens=9))


def test_text_is_that_of_the_whole(with_words: Path) -> None:
    with s2s_infer.load(with_words) as model:
        prompt = model.prompt("the dog sees <sep>")
        assert prompt.text == "the dog sees <sep>" and len(prompt.token_ids) == 4
        tails = [" the cat", "", " w1 w2", "the"]  # the last one makes another last word: <unk>
        whole = model.generate([prompt.text + tail for tail in tails], max_new_tokens=5)
        shared = model.generate(tails, prompt=prompt, max_new_tokens=5)
        assert bits(shared) == bits(whole)
        assert [r.n_reused for r in shared] == [4, 3, 4, 3]
        assert shared[0].to_dict()["n_reused"] == 4 and "n_reused" not in whole[0].to_dict()
        assert bits(model.generate(tails, prompt=prompt.text, max_new_tokens=5)) == bits(whole)
        streamed = "".join(model.stream(" the cat", prompt=prompt, max_new_tokens=5))
        assert streamed == whole[0].text
        iterated = model.iterate(iter(tails), prompt=prompt, max_new_tokens=5)
        assert bits(list(iterated)) == bits(whole)
        score = model.score(" the cat", "the dog", prompt=prompt)[0]
        assert (
            score.token_logprobs
            == model.score(prompt.text + " the cat", "the dog")[0].token_logprobs
        )
        ids = model.prompt(prompt.token_ids)
        assert ids.text is None
        with pytest.raises(OptionError, match="was given as token ids, so token ids must follow"):
            model.generate(" the cat", prompt=ids)


def test_bytes_are_keys_and_values_alone() -> None:
    with wide("llama") as model:
        config = model.config.decoder
        for n in (1, 128, 300):
            prompt = model.prompt(prompts((n,))[0])
            kept = config.n_layers * n * config.d_cached * 4
            assert kept <= prompt.n_bytes <= kept + 4 * n + 3 * 64
            assert repr(prompt) == f"<s2s_infer.Prompt of {n} tokens, {prompt.n_bytes} bytes>"


def test_one_prompt_on_many_threads() -> None:
    start, *rest = prompts((200, 3, 15, 40, 1, 7))
    with wide("llama") as model:
        prompt = model.prompt(start)
        expected = [bits(model.generate_ids([row], prompt=prompt, num_beams=2)) for row in rest]
        found: list[Any] = [None] * len(rest)

        def run(i: int) -> None:
            found[i] = bits(model.generate_ids([rest[i]], prompt=prompt, num_beams=2))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(rest))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == expected


INTERRUPTED = """
    import sys, time
    from dataclasses import replace
    import s2s_infer
    from s2s_infer.loaders import load_checkpoint
    checkpoint = load_checkpoint(sys.argv[1])
    decoder = replace(checkpoint.config.decoder, max_positions=200_000)
    config = replace(checkpoint.config, decoder=decoder)
    model = s2s_infer.Model(replace(checkpoint, config=config), threads=1)
    print("started", flush=True)
    try:
        CALL
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(model.prompt([5] * 10).n_bytes > 0)
"""


@pytest.mark.parametrize(
    "call",
    [
        "model.prompt([5] * 200_000)",
        "model.generate_ids([[5]], max_new_tokens=150_000, min_new_tokens=150_000)",
    ],
)
def test_keyboard_interrupt_ends_a_long_prompt_and_a_long_output(call: str) -> None:
    script = textwrap.dedent(INTERRUPTED).replace("CALL", call)
    command = [sys.executable, "-c", script, str(families.FIXTURES / "llama")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(1.0)
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - sent < 5.0  # all of it would take minutes
    with process:  # communicate would miss what came with the line before
        rest = process.stdout.read()
    assert rest.strip() == "True" and process.returncode == 0


def test_refusals() -> None:
    with s2s_infer.load(families.FIXTURES / "llama") as model:
        with pytest.raises(OptionError, match="the prompt is empty"):
            model.prompt([])
        with pytest.raises(OptionError, match="the prompt holds the token id 60"):
            model.prompt([60])
        with pytest.raises(s2s_infer.InputTooLongError, match="the prompt has 65 tokens, but"):
            model.prompt([5] * 65)
        with pytest.raises(s2s_infer.InputTooLongError, match="has 71 tokens, but"):
            model.generate_ids([[5] * 40], prompt=[5] * 31)
        prompt = model.prompt([5, 6])
        with (
            s2s_infer.load(families.FIXTURES / "llama") as other,
            pytest.raises(OptionError, match="the prompt was read by another model"),
        ):
            other.generate_ids([[5]], prompt=prompt)
    for name in ("bart", "t5"):
        with (
            s2s_infer.load(families.FIXTURES / name) as model,
            pytest.raises(OptionError, match=rf"a prompt is for a decoder alone.*\({name}\)"),
        ):
            model.generate_ids([[5, 6]], prompt=[5])
    with (
        s2s_infer.load(parity.FIXTURES / parity.SMALL[0].name) as model,
        pytest.raises(OptionError, match="a prompt is for a decoder alone"),
    ):
        model.prompt([3, 4])


def test_a_prompt_outlives_its_model() -> None:
    with s2s_infer.load(families.FIXTURES / "llama") as model:
        prompt = model.prompt([5, 6, 7])
    del model
    assert prompt.n_bytes > 0


def test_a_session_keeps_its_prompt() -> None:
    """What a request begins with is compared with the ids of the prompt, long after its making."""
    checkpoint = load_checkpoint(families.FIXTURES / "llama")
    core = _core.Model(checkpoint.config.to_core(), checkpoint.tensors)
    session = _core.Session(
        core,
        None,
        max_rows=1,
        max_source_positions=0,
        max_target_positions=20,
        max_encoder_tokens=20,
        prompt=_core.Prompt(core, None, [5, 6, 7, 8]),
    )
    others = [_core.Prompt(core, None, [9] * 4) for _ in range(10)]  # in memory that was freed
    session.submit([], [5, 6, 7, 8, 9], {"n_prompt": 5, "max_new_tokens": 2})
    while (result := session.next_result()) is None:
        session.step()
    assert result.n_reused == 4
    assert len(others) == 10
