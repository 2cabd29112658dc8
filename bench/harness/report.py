"""What a run prints: progress on stderr, tables and the JSON line on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from harness.statistics import CellKey, Goal, Samples


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, aligned so that it also reads well in a terminal."""
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    print(f"\n### {title}\n")
    for index, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(cells) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()


def print_cells(
    title: str,
    samples: Samples,
    *,
    workload: str,
    dialect: str | None,
    clients: Sequence[int],
    absent: dict[str, str],
    without: Sequence[str] = (),
) -> None:
    """One workload: a row for each server, a column for each number of clients; missing servers with their reason.

    Args:
        title: of the table.
        samples: of the run.
        workload: which cells.
        dialect: which cells; None: all dialects, shown beside the server's name.
        clients: the columns.
        absent: servers that could not be measured, and why.
        without: dialects that are left out.
    """
    rows: dict[tuple[str, str], dict[int, CellKey]] = {}
    for key in samples.cells():
        if key.dialect in without:
            continue
        if key.workload == workload and dialect in (None, key.dialect):
            rows.setdefault((key.server, key.dialect), {})[key.clients] = key
    header = ["server", *[f"{n} client{'s' if n > 1 else ''}" for n in clients], "errors"]
    lines = []
    for (server, spoken), cells in rows.items():
        name = server if dialect is not None else f"{server}, {spoken}"
        errors = sum(s.errors for key in cells.values() for s in samples.of(key))
        columns = [format_cell(samples, cells.get(n)) for n in clients]
        lines.append([name, *columns, str(errors)])
    for server, reason in absent.items():
        reason = reason.replace("|", "/").replace("\n", " ")
        lines.append([server, f"not measured: {reason[:160]}", *[""] * (len(clients) - 1), ""])
    print_table(title, header, lines)


def format_cell(samples: Samples, key: CellKey | None) -> str:
    """`rate/s ±spread (p50 / p99 ms)`, or a dash."""
    if key is None or not samples.of(key):
        return "-"
    rate, p50, p99 = (samples.median(key, name) or 0.0 for name in ("rate", "p50_ms", "p99_ms"))
    digits = 0 if rate >= 100 else 2
    spread = samples.spread(key) * 100 / 2
    return f"{rate:,.{digits}f}/s ±{spread:.0f} % ({p50:.2f} / {p99:.2f} ms)"


def print_goals(goals: Sequence[Goal]) -> None:
    """A table of the goals."""
    words = {True: "yes", False: "NO", None: "not judged"}
    rows = []
    for goal in goals:
        item = goal.as_json()
        value = "-" if item["value"] is None else f"{item['value']:.3f}"
        rows.append([goal.name, value, item["goal"] or "stated", words[goal.holds], goal.note])
    print_table("Goals", ["goal", "measured", "wanted", "holds", "what"], rows)


def print_json_line(benchmark: str, goals: Sequence[Goal], about: dict[str, Any]) -> None:
    """The run's last line."""
    line = {"benchmark": benchmark, "goals": [goal.as_json() for goal in goals], **about}
    print(json.dumps(line), flush=True)
