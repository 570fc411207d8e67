"""The figures as Markdown and as plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from . import growth
from .table import ONNX, OURS, PEER, TORCH

BARS = ("#1f6fb4", "#7fb2dd", "#c9dcef")
COLOURS = ("#1f6fb4", "#c9a227", "#7a6210")
"""Of the engines in the plots of growth, in their order."""


def markdown(report: Mapping[str, Any]) -> str:
    """Everything that was measured, as tables."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    machine, versions = report["machine"], report["versions"]
    yield "# Benchmark"
    yield ""
    yield (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; load average "
        f"{machine['load_average']} before, {report['load_average_after']} after; "
        f"commit {report['commit']}, {report['date']}; "
        + ", ".join(f"{name} {value}" for name, value in versions.items())
        + f".  `{report['command']}`, {report['minutes']} minutes."
    )
    for note in report["notes"]:
        yield f"\n*{note}*"
    if report.get("table"):
        yield from _speed(report)
    if report.get("continuous"):
        yield from _continuous(report["continuous"])
    if report.get("limits"):
        yield from _limits(report["limits"])
    if report.get("footprint"):
        yield from _footprint(report["footprint"])
    if report.get("growth"):
        yield from _growth(report["growth"])
    if report.get("steady"):
        yield from _steady(report["steady"])
    if report.get("profile"):
        yield from _profile(report["profile"])


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _speed(report: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Output tokens a second\n"
    yield (
        "Medians of rounds in turns, least to most in brackets; each engine in its own process, "
        "token ids in and out; outputs of a fixed length (a file's end by themselves).  By CPU: "
        "the ratio of tokens a second of CPU time, which stands a busy machine.  Limit: tokens a "
        "second if nothing but the weights were read, or nothing but their products computed, at "
        "this machine's measured rates, whichever is less; greedy search can be above it, where a "
        "first pass over fewer bits leaves most weights of the output out.  The limit's ratio: how "
        f"many times {PEER}'s speed the limit is.  "
        f"Real sentences: {report['text']}."
    )
    rows = []
    for row in report["table"]:
        engines = row["engines"]
        shown = [_speed_cell(engines.get(name)) for name in (OURS, PEER)]
        ratio = f"**{row['ratio']:.2f}**" if "ratio" in row else ""
        by_cpu = f"{row['ratio_by_cpu_time']:.2f}" if "ratio_by_cpu_time" in row else ""
        share = f"{row['limit']['share']:.0%}" if "limit" in row else ""
        possible = f"{row['ratio'] / row['limit']['share']:.1f}" if share and ratio else ""
        configuration = engines[PEER]["configuration"] if PEER in engines else ""
        rows.append([*_place(row), *shown, ratio, by_cpu, share, possible, configuration])
    head = ["model", "dtype", "threads", "workload", OURS, PEER, "ratio", "by CPU", "of the limit"]
    yield from _table([*head, "the limit's ratio", f"{PEER}'s best"], rows)
    same = [
        f"{row['dtype']}, {row['workload'].partition(', ')[2]} {n} of {n_all}"
        for row in report["table"]
        if "same_outputs" in row and row["threads"] == report["table"][0]["threads"]
        for n, n_all in [row["same_outputs"]]
    ]
    if same:
        yield (
            f"\nOutputs of the file that are {PEER}'s, token for token: {'; '.join(same)}.  Where "
            "outputs end by themselves, both end a beam search once as many have ended as there "
            "are beams (early_stopping=True)."
        )
    yield from _others(report)


def _others(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in report["table"] if "others" in row]
    if not rows:
        return
    yield (
        "\nOther engines, greedy, in turns with ours; in brackets how many times as fast ours is. "
        f"{TORCH}: over torch, float32.  {ONNX}: the trainer's ONNX graphs, the encoder once, the "
        "decoder with past keys and values kept as they are, int8 by its dynamic quantization, "
        "the loop in numpy.  Both take a file sorted, 64 sentences at once."
    )
    names = [name for name in (TORCH, ONNX) if any(name in row["others"] for row in rows)]
    cells = [
        [*_place(row), *(_other_cell(row["others"].get(name)) for name in names)] for row in rows
    ]
    yield from _table(["model", "dtype", "threads", "workload", *names], cells)


def _other_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    return f"{figures['tokens_per_second']:,.0f} (**{figures['ratio']:.1f}**)"


def _place(row: Mapping[str, Any]) -> list[object]:
    return [row["model"], row["dtype"], row["threads"], row["workload"]]


def _speed_cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return ""
    low, high = figures["spread"]
    return f"{figures['tokens_per_second']:,.0f} ({low:,.0f}..{high:,.0f})"


def _continuous(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Continuous batching ({found['model']}, {found['dtype']})\n"
    yield (
        "The same file of mixed lengths and the same engine: rows that sentences leave are "
        "refilled at once, with sources encoded ahead together; or each batch is a call, which "
        "waits for its last sentence.  Output tokens a second, in brackets what continuous "
        "batching is times as fast as."
    )
    ways = list(found["rows"][0]["tokens_per_second"])
    rows = []
    for row in found["rows"]:
        speeds = row["tokens_per_second"]
        best = speeds["continuous"]
        cells = [f"{speeds[way]:,.0f} ({best / speeds[way]:.2f})" for way in ways[1:]]
        rows.append([row["threads"], row["beams"], f"**{best:,.0f}**", *cells])
    yield from _table(["threads", "beams", *ways], rows)


def _limits(limits: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## What the machine allows\n"
    yield "Measured by `tools/bench/probe.c`: reading GB/s by size, and G operations/s."
    sizes = list(limits[0]["read"])
    peaks = list(limits[0]["operations"])
    head = ["threads", *(f"{int(size) >> 20} MB" for size in sizes), *peaks]
    rows = [
        [row["threads"]]
        + [f"{row['read'][size] / 1e9:.0f}" for size in sizes]
        + [f"{row['operations'][name] / 1e9:,.0f}" for name in peaks]
        for row in limits
    ]
    yield from _table(head, rows)


def _footprint(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## From the file to the first token, and memory\n"
    yield (
        "Each run a process; medians.  From opening the model to the first token, imports not "
        "counted; and of a program of a few lines from the start of the interpreter, imports and "
        "all (`tools/bench/first_token.py`).  MB: what opening the model and the first token add "
        "to the process (resident, of it anonymous and file-backed), the whole process then, and "
        "after 32 sentences with 4 beams; peak at the end."
    )
    rows = []
    for row in found:
        for name, run in row["engines"].items():
            first, before = run["at_first_token"], run["before"]
            last = run["after_32_with_4_beams"]
            parts = ("resident", "anonymous", "file")
            rows.append(
                [row["model"], row["dtype"], name]
                + [f"{run['seconds_to_first_token'] * 1e3:.1f} ms"]
                + [f"{run['cpu_seconds_to_first_token'] * 1e3:.1f} ms"]
                + [f"{run['process_seconds_to_first_token'] * 1e3:.0f} ms"]
                + [f"{(first[part] - before[part]) / 1e6:.1f}" for part in parts]
                + [f"{first['resident'] / 1e6:.1f}", f"{first['proportional'] / 1e6:.1f}"]
                + [f"{last['resident'] / 1e6:.1f}", f"{last['peak'] / 1e6:.1f}"]
            )
    head = [
        "model",
        "dtype",
        "engine",
        "first token",
        "of CPU",
        "whole process",
        "+ resident",
        "+ anonymous",
        "+ file",
    ]
    yield from _table([*head, "process", "PSS", "after 32 x 4", "peak"], rows)
    if any("onnxruntime" in row["engines"] for row in found):
        yield "\nonnxruntime's loop is greedy: its 32 sentences are without beams."


def _growth(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## How cost grows ({found['model']}, {found['dtype']})\n"
    yield (
        "Output tokens a second, best of the rounds: greedy, "
        f"{growth.SOURCES_OF_LENGTHS} sentences at once of {growth.N_SOURCE} tokens, outputs of "
        f"{growth.N_TARGET}, {found['sweeps']['batch']['threads']} threads, but for what a table "
        f"varies.  A cliff is a point whose time is more than {growth.TOLERANCE} times that of a "
        "straight line through the two points before it (with more threads: more than a tenth "
        "above the point before)."
    )
    for sweep, values in found["sweeps"].items():
        rows = []
        for name, figures in values["engines"].items():
            speeds = [f"{speed:,.0f}" for speed in figures["tokens_per_second"]]
            rows.append([name, *speeds, ", ".join(map(str, values["cliffs"][name])) or "none"])
        yield from _table([sweep, *map(str, values["x"]), "cliffs at"], rows)


def _steady(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Memory over many requests ({found['model']}, {found['dtype']})\n"
    yield "Requests of mixed lengths and beams; the slope is that of the last three quarters."
    rows = [
        [
            run["python_threads"],
            f"{run['n_requests']:,}",
            f"{run['resident_first'] / 1e6:.1f}",
            f"{run['resident_last'] / 1e6:.1f}",
            f"{run['resident_most'] / 1e6:.1f}",
            f"{run['bytes_per_1000_requests'] / 1e3:+.1f}",
        ]
        for run in found["runs"]
    ]
    head = [
        "Python threads",
        "requests",
        "MB at first",
        "at last",
        "at most",
        "kB a 1,000 requests",
    ]
    yield from _table(head, rows)


def _profile(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## Where the time goes\n"
    yield (
        'Share of the calling thread\'s time by operation (`csrc/base/profile.h`); "wait" is for '
        'other threads, "python" what is outside of the core\'s steps.  Where several sessions '
        "work side by side: share of the time of all their steps."
    )
    names: dict[str, float] = {}
    for row in found:
        for name, share in row["shares"].items():
            names[name] = max(names.get(name, 0.0), share)
    for threads in sorted({row["threads"] for row in found}):
        some = [row for row in found if row["threads"] == threads]
        titles = [f"{row['model']} {row['dtype']}, {row['workload']}" for row in some]
        rows = [
            [name, *(f"{100 * row['shares'].get(name, 0):.1f}" for row in some)]
            for name in sorted(names)
            if names[name] >= 0.01
        ]
        yield from _table([f"%, {threads} threads", *titles], rows)


# ---- Plots --------------------------------------------------------------------------------------


def plot(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """speed.svg and growth.svg.  Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "s2s-infer"  # the same file for the same figures
    from matplotlib import pyplot

    written = []
    if report.get("table"):
        written.append(_plot_speed(pyplot, report, folder / "speed.svg"))
    if report.get("growth"):
        written.append(_plot_growth(pyplot, report["growth"], folder / "growth.svg"))
    return written


def _plot_speed(pyplot: Any, report: Mapping[str, Any], path: Path) -> Path:
    """How many times as fast, by workload; without a peer, the speed itself."""
    rows = [row for row in report["table"] if "ratio" in row] or report["table"]
    compared = "ratio" in rows[0]
    threads = sorted({row["threads"] for row in rows})
    models = list(dict.fromkeys(row["model"] for row in rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    height = 0.8 / len(dtypes)
    figure, axes = pyplot.subplots(
        len(threads),
        len(models),
        figsize=(4.2 * len(models), 3.2 * len(threads)),
        squeeze=False,
        sharex=compared,
    )
    for axis, (n_threads, model) in zip(axes.flat, product(threads, models), strict=True):
        some = [row for row in rows if (row["threads"], row["model"]) == (n_threads, model)]
        workloads = list(dict.fromkeys(row["workload"] for row in some))
        for row in some:
            k = dtypes.index(row["dtype"])
            y = workloads.index(row["workload"]) + (k - (len(dtypes) - 1) / 2) * height
            speed = row["engines"][OURS]["tokens_per_second"]
            value = row["ratio"] if compared else speed
            axis.barh(y, value, 0.9 * height, color=BARS[k % len(BARS)])
            text = f" {value:.1f}x, {speed:,.0f}/s" if compared else f" {speed:,.0f}/s"
            axis.text(value, y, text, va="center", fontsize=7)
        axis.set_yticks(range(len(workloads)), workloads)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.margins(x=0.35)
        axis.xaxis.set_tick_params(labelbottom=True)
        if compared:
            axis.axvline(1, color="#555555", linewidth=0.8)
        axis.set_title(f"{model}, threads: {n_threads}", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    bars = [pyplot.Rectangle((0, 0), 1, 1, color=BARS[k % len(BARS)]) for k in range(len(dtypes))]
    figure.legend(bars, dtypes, fontsize=8, frameon=False, loc="lower right", ncols=len(dtypes))
    title = f"times {PEER}'s tokens a second (line: as fast)" if compared else "tokens a second"
    figure.supxlabel(title, fontsize=9)
    return _save(pyplot, figure, path)


def _plot_growth(pyplot: Any, growth: Mapping[str, Any], path: Path) -> Path:
    sweeps = growth["sweeps"]
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 5.6))
    for axis, (sweep, values) in zip(axes.flat, sweeps.items(), strict=False):
        for (name, figures), colour in zip(values["engines"].items(), COLOURS, strict=False):
            xs, speeds = values["x"], figures["tokens_per_second"]
            axis.plot(xs, speeds, "o-", color=colour, label=name, markersize=3.5)
        axis.set_xscale("log", base=2)
        axis.set_xticks(values["x"], [str(x) for x in values["x"]])
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.set_title(sweep, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=7, frameon=False, loc="upper left")
    figure.supylabel("output tokens a second", fontsize=9)
    return _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
