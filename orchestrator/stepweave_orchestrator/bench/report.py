"""The figures as tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from .large import BATCHES, LAYERED

_NAMES: Final = {"dbos": "DBOS", "restate": "Restate"}
#: What the size of a large task counts.
_SIZES: Final = {LAYERED: "steps in layers", BATCHES: "batches"}


@dataclass(frozen=True, slots=True)
class Goal:
    """What the project aims at, for one ratio or figure."""

    what: str
    read: Callable[[dict[str, Any]], float | None]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def text(self) -> str:
        """The goal as people write it."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def is_met(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


def _ratio(key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda found: found["ratios"].get(key)


def _figure(part: str, key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda found: found.get(part, {}).get(key)


GOALS: Final = (
    Goal("chain, steps/s: to Restate", _ratio("throughput_vs_restate"), at_least=5),
    Goal("chain, steps/s: to DBOS", _ratio("throughput_vs_dbos"), at_least=40),
    Goal("chain, steps/s: two orchestrators to one", _ratio("two_orchestrators_vs_one"), at_least=1.4),
    Goal("chain, p50: to Restate", _ratio("latency_vs_restate"), at_most=0.7),
    Goal("chain, p50: to DBOS", _ratio("latency_vs_dbos")),
    Goal("diamond, p50: to Restate", _ratio("diamond_latency_vs_restate"), at_most=0.8),
    Goal("fan-out, p50: to Restate", _ratio("fanout_latency_vs_restate"), at_most=0.6),
    Goal("most layers, time per step: to fewest", _ratio("layered_ms_per_step_vs_smallest"), at_most=1.3),
    Goal("most layers, CPU per step: to fewest", _ratio("layered_cpu_per_step_vs_smallest"), at_most=1.3),
    Goal("most batches, time per step: to fewest", _ratio("batches_ms_per_step_vs_smallest"), at_most=1.3),
    Goal("most batches, CPU per step: to fewest", _ratio("batches_cpu_per_step_vs_smallest"), at_most=1.3),
    Goal("CPU per step, µs", _figure("chain", "cpu_us_per_step"), at_most=200),
    Goal("replay, events/s", _figure("replay", "events_per_s"), at_least=100_000),
    Goal("idle, PostgreSQL queries/s", _figure("idle", "pg_queries_per_s"), at_most=5),
    Goal("idle, CPU in % of a core", _figure("idle", "cpu_percent"), at_most=1),
)


def print_report(found: dict[str, Any], console: Console) -> None:
    """Print what `figures.figures` gave."""
    console.print(_contenders(found))
    console.print(_goals(found))
    if "large_tasks" in found:
        console.print(_large_tasks(found["large_tasks"]))
    machine = found["machine"]
    for key, name in _NAMES.items():
        if "skipped" in found.get(key, {}):
            console.print(f"{name} was not measured: {found[key]['skipped']}", markup=False)
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, load {machine['load_average_1m']:g}; "
        f"{len(found['rounds'])} rounds. Figures are medians; the ratios are those of one round, their median.",
        markup=False,
    )


def _contenders(found: dict[str, Any]) -> Table:
    columns = {
        "Stepweave": found,
        **{name: found[key] for key, name in _NAMES.items() if "chain" in found.get(key, {})},
    }
    table = Table(title="Side by side")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    rows: Sequence[tuple[str, Callable[[dict[str, Any]], str]]] = (
        ("chain of 5 steps, p50 / p95 ms", lambda one: _latency(one["chain"])),
        ("diamond of 4 steps, p50 / p95 ms", lambda one: _latency(one["diamond"])),
        ("100 parallel steps and a join, p50 / p95 ms", lambda one: _latency(one["fanout"])),
        ("many chains, steps/s", lambda one: _number(one["chain"]["steps_per_s"])),
        ("the same with two orchestrators", lambda one: _number(one.get("chain_2", {}).get("steps_per_s"))),
        ("CPU of all processes per step, µs", lambda one: _number(one["chain"]["cpu_us_per_step"])),
    )
    for label, cell in rows:
        table.add_row(label, *(cell(one) for one in columns.values()))
    return table


def _large_tasks(found: dict[str, Any]) -> Table:
    table = Table(title="A step in one task of many")
    for title in ("", "ms", "to the smallest", "CPU µs", "to the smallest"):
        table.add_column(title, justify="right" if title else "left")
    for kind, rows in found.items():
        for row in rows:
            columns = (
                "ms_per_step",
                "ms_per_step_vs_smallest",
                "cpu_us_per_step",
                "cpu_per_step_vs_smallest",
            )
            table.add_row(f"{row['size']:,} {_SIZES[kind]}", *(_number(row[column]) for column in columns))
    return table


def _goals(found: dict[str, Any]) -> Table:
    table = Table(title="Ratios and goals")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    for goal in GOALS:
        value = goal.read(found)
        if value is None:
            continue
        has_goal = goal.at_least is not None or goal.at_most is not None
        verdict = ("met" if goal.is_met(value) else "missed") if has_goal else ""
        table.add_row(goal.what, _number(value), goal.text if has_goal else "", verdict)
    return table


def _latency(figures: dict[str, float]) -> str:
    return f"{figures['p50_ms']:.1f} / {figures['p95_ms']:.1f}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
