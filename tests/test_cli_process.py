"""The command s2s-infer as a process: pipes, terminals, signals, memory."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command import CHECKPOINT, COMMAND, run


def test_a_line_is_answered_before_the_next_is_written() -> None:
    process = subprocess.Popen(
        [*COMMAND, "translate", "-m", CHECKPOINT, "--max-new-tokens", "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        for text in ("hello", "天气", ""):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 60)[0], "no answer"
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("hello world\n" * 20_000, encoding="utf-8")
    process = subprocess.Popen(
        [*COMMAND, "translate", "-m", CHECKPOINT, "-i", str(source), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == -signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_ends_it_quietly_with_status_130() -> None:
    process = subprocess.Popen(
        [*COMMAND, "translate", "-m", CHECKPOINT, "--max-new-tokens=3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    process.stdout.readline()  # it runs, and now waits for more
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and message == b""


def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("hello world\n" * 3000, encoding="utf-8")
    arguments = ["translate", "-m", CHECKPOINT, "-i", str(source), "--max-new-tokens=9"]
    arguments += ["-o", str(tmp_path / "out.txt")]
    assert run(*arguments).stderr == b""
    for quiet in (False, True):
        leader, follower = pty.openpty()
        try:
            done = subprocess.run(
                [*COMMAND, *arguments, *(["-q"] if quiet else [])],
                stdin=subprocess.DEVNULL,
                stdout=follower,  # the results go to a file
                stderr=follower,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0
            shown = b""
            while select.select([leader], [], [], 0.1)[0]:
                shown += os.read(leader, 1 << 16)
        finally:
            os.close(follower)
            os.close(leader)
        if quiet:
            assert shown == b""
        else:
            last = shown.decode().rstrip().rsplit("\r", 1)[-1]
            assert "100%" in last and "3000 lines" in last


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_on_a_long_file(tmp_path: Path) -> None:
    peaks = []
    for n_lines in (2_000, 40_000):
        source = tmp_path / f"{n_lines}.txt"
        source.write_text("hello world\n天气很好\n" * (n_lines // 2), encoding="utf-8")
        code = (
            "import resource, sys; from s2s_infer.cli import main;"
            f"main(['translate', '-m', {CHECKPOINT!r}, '-i', {str(source)!r}, '-o', '/dev/null',"
            "'--max-new-tokens', '2', '--num-beams', '1']);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=240, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 4_000  # KiB; the inputs and results alone would take 40 MB
