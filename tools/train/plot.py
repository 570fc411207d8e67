"""Plot training logs: losses, BLEU, learning rate over the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("loss per token", ("loss", "nll", "valid_nll")),
    ("BLEU on validation", ("bleu_zh_en", "bleu_en_zh")),
    ("learning rate", ("lr",)),
    ("gradient norm", ("grad_norm",)),
)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a ``log.jsonl``."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from None
    if not records:
        raise ValueError(f"{path} holds no records yet")
    return records


def plot(logs: Sequence[Path], out: Path) -> None:
    """Draw all runs into one image; a run is named after its directory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), sharex=True, layout="constrained")
    for path in logs:
        records = read_log(path)
        run = f"{path.resolve().parent.name}: " if len(logs) > 1 else ""
        for axis, (title, names) in zip(axes.flat, PANELS, strict=True):
            axis.set_title(title)
            for name in names:
                points = [(r["step"], r[name]) for r in records if name in r]
                if points:
                    axis.plot(*zip(*points, strict=True), label=run + name, linewidth=1)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
    for axis in axes.flat:
        if axis.lines:
            axis.legend(fontsize="small")
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
