"""Behaviour that only a process of its own can show: forks, signals, memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import parity

CHECKPOINT = str(parity.FIXTURES / "relu-tied")


def python(code: str | Path, *arguments: str, timeout: float = 120) -> str:
    """Run code or a script in a new interpreter on the tiny checkpoint; returns its output."""
    program = [str(code)] if isinstance(code, Path) else ["-c", textwrap.dedent(code)]
    done = subprocess.run(
        [sys.executable, *program, CHECKPOINT, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORKED = """
    import sys, warnings
    import multiprocessing
    import s2s_infer
    warnings.simplefilter("ignore")  # Python's own, about forking a process that has threads

    def translate(model):
        sources = [[i, i + 1, i + 2, 0] for i in range(1, 40)]
        return [r.token_ids for r in model.generate_ids(sources, num_beams=4, max_new_tokens=20)]

    def inherited(_):
        return translate(MODEL)

    def opened(path):
        with s2s_infer.load(path, threads=2) as model:
            return translate(model)

    if __name__ == "__main__":
        path, method = sys.argv[1:]
        MODEL = s2s_infer.load(path, threads=2)
        here = translate(MODEL)
        with multiprocessing.get_context(method).Pool(2) as pool:
            for function in [opened, inherited] if method == "fork" else [opened]:
                for there in pool.map(function, [path] * 4):
                    assert there == here
        assert translate(MODEL) == here
        print("same")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_process_that_used_threads_compute_the_same(
    method: str, tmp_path: Path
) -> None:
    script = tmp_path / "children.py"
    script.write_text(textwrap.dedent(FORKED), encoding="utf-8")
    assert python(script, method) == "same"


def test_keyboard_interrupt_ends_a_long_call_within_a_step() -> None:
    code = """
        import sys
        import s2s_infer
        model = s2s_infer.load(sys.argv[1])
        sources = [[1, 2, 3, 0]] * 20_000
        print("started", flush=True)
        try:
            model.generate_ids(sources, max_new_tokens=60, min_new_tokens=60, num_beams=4)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(model.generate_ids([[1, 2, 3, 0]], max_new_tokens=5)[0].finish_reason)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), CHECKPOINT], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(1.5)
    assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    line = process.stdout.readline()
    elapsed = time.monotonic() - sent
    with process:  # communicate would miss what came with the line before
        rest = process.stdout.read()
    assert line == "interrupted\n"
    assert elapsed < 1.0
    assert rest.strip() in ("eos", "length")  # the model is still usable
    assert process.returncode == 0


def test_a_signal_ends_a_call_of_the_encoder_before_all_is_read() -> None:
    printed = python(
        """
        import signal, time
        import s2s_infer

        class Alarm(Exception):
            pass

        def ring(number, frame):
            raise Alarm

        signal.signal(signal.SIGALRM, ring)
        with s2s_infer.load(threads=1) as model:
            sources = [[5] * 300 + [0]] * 64
            model.encode_ids(sources[:1])
            start = time.monotonic()
            model.encode_ids(sources)
            whole = time.monotonic() - start
            signal.setitimer(signal.ITIMER_REAL, whole / 20)
            start = time.monotonic()
            try:
                model.encode_ids(sources)
            except Alarm:
                print("early" if time.monotonic() - start < whole / 2 else "late")
        """
    )
    assert printed == "early"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_mixed_requests() -> None:
    printed = python(
        """
        import random, sys
        import s2s_infer

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096

        model = s2s_infer.load(sys.argv[1], threads=2)
        rng = random.Random(1)

        def request():
            sources = [
                [rng.randrange(1, 49) for _ in range(rng.randrange(1, 60))] + [0]
                for _ in range(rng.randrange(1, 20))
            ]
            options = rng.choice([
                {}, {"num_beams": 4, "num_return_sequences": 3}, {"do_sample": True, "seed": 1},
                {"return_alignment": True, "return_alternatives": 4},
            ])
            model.generate_ids(sources, max_new_tokens=rng.randrange(1, 40), **options)

        for _ in range(150):
            request()
        before = resident()
        for _ in range(300):
            request()
        print(resident() - before)
        """
    )
    assert int(printed) < 4 << 20
