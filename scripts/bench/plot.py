"""The picture: how near each figure is to its target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.bench.verdict import Row


def nearness(row: Row) -> float | None:
    """1 at the target, more when it is passed, whichever way the claim points; None without a target."""
    if row.ratio is None or not row.target:
        return None
    if row.operator == ">=":
        return row.ratio / row.target
    return row.target / row.ratio if row.ratio else None


def plot(rows: Sequence[Row], path: Path) -> bool:
    """Draw one bar per claim with a target; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    bars = [(label(row), near) for row in reversed(rows) if (near := nearness(row)) is not None]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.35 * len(bars)))
    colours = ["#2a7f62" if near >= 1 else "#c0392b" for _, near in bars]
    axes.barh([name for name, _ in bars], [near for _, near in bars], color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("measured against the target (1 = reached)")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def label(row: Row) -> str:
    """What a bar is called."""
    beside = f" / {row.beside.arm}" if row.beside and row.beside.arm != row.value.arm else ""
    metric = f" {row.value.metric}" if row.value.metric != "rate" else ""
    return f"{row.figure}{metric}{beside}"
