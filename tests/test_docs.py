"""What the documentation shows is what happens: its Python snippets and commands are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/tour.md"]
ALL_PAGES = [
    str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
]


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """(line number, content) of each fenced block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in pattern.finditer(text)]


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = blocks(page, "python")
    assert found
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for line, code in found:  # one session a page; line numbers are those of the page
        exec(compile("\n" * (line - 1) + code, str(ROOT / page), "exec"), namespace)


def test_commands_of_the_readme_run(tmp_path: Path) -> None:
    """Every line of the readme's console blocks that runs s2s-infer on the built-in model."""
    lines = [line for _, block in blocks("README.md", "console") for line in block.splitlines()]
    commands = [line[2:] for line in lines if line.startswith("$ ") and "opus-mt" not in line]
    assert len(commands) >= 3
    script = Path(sys.executable).parent
    for command in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'PATH="{script}:$PATH"; {command}'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip() or list(tmp_path.iterdir()), command


def test_code_that_the_pages_name_exists() -> None:
    for page in ALL_PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for path in set(re.findall(r"`((?:csrc|engine|tools|tests|docs)/[\w./]+)`", text)):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_links_between_pages_lead_somewhere() -> None:
    n_links = 0
    for page in ALL_PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in link:
                n_links += 1
                assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"
    assert n_links > 10
