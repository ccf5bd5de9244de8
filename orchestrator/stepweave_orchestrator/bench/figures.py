"""From what was measured to figures: medians, percentiles, ratios; the shape of the JSON file."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .large import StepCost, StepCosts
from .rounds import Turn, steps_per_s
from .session import OURS, Measured, Round

_DIGITS: Final = 4


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.{_DIGITS}g}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: rounded(value) for name, value in values.items()}


def figures(measured: Measured, *, quick: bool) -> dict[str, Any]:
    """Everything as plain values, with the keys of the JSON file."""
    ours = _turns(measured.rounds, OURS)
    two = [one.two_orchestrators for one in measured.rounds if one.two_orchestrators is not None]
    found: dict[str, Any] = {
        **_contender(ours),
        "chain_2": {"steps_per_s": rounded(statistics.median(steps_per_s(burst) for burst in two))}
        if two
        else {},
        "replay": {"events_per_s": rounded(measured.replay_events_per_s)},
        "idle": {
            "pg_queries_per_s": rounded(measured.idle.pg_queries_per_s),
            "cpu_percent": rounded(measured.idle.cpu_percent),
            "cpu_percent_by": _rounded(measured.idle.cpu_percent_by),
            "seconds": rounded(measured.idle.seconds),
        },
    }
    if measured.step_costs:
        found["large_tasks"] = _large_tasks(measured.step_costs)
    for key in measured.keys:
        turns = _turns(measured.rounds, key)
        found[key] = _contender(turns) if turns else {}
        if key in measured.skipped:
            found[key]["skipped"] = measured.skipped[key]
    found["ratios"] = _ratios(measured)
    found["quick"] = quick
    found["machine"] = machine()
    found["setups"] = measured.settings
    found["rounds"] = [_round(one) for one in measured.rounds]
    return found


def _turns(rounds: Iterable[Round], key: str) -> list[Turn]:
    return [one.turns[key] for one in rounds if key in one.turns]


def _contender(turns: Sequence[Turn]) -> dict[str, Any]:
    """Latencies over the runs of all rounds; throughput and CPU time as medians of the rounds."""
    chain = [ms for turn in turns for ms in turn.chain_ms]
    return {
        "chain": {
            **_latency(chain),
            "steps_per_s": rounded(statistics.median(turn.steps_per_s for turn in turns)),
            "cpu_us_per_step": rounded(statistics.median(turn.cpu_us_per_step for turn in turns)),
            "cpu_us_per_step_by": {
                name: rounded(statistics.median(turn.cpu_us_per_step_by[name] for turn in turns))
                for name in turns[0].burst_cpu_seconds
            },
        },
        "diamond": _latency([ms for turn in turns for ms in turn.diamond_ms]),
        "fanout": _latency([ms for turn in turns for ms in turn.fanout_ms]),
    }


def _latency(ms: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": rounded(percentile(ms, 50)), "p95_ms": rounded(percentile(ms, 95)), "runs": len(ms)}


def _large_tasks(step_costs: StepCosts) -> dict[str, list[dict[str, float | None]]]:
    """Of each kind of task: a row for each size, smallest first."""
    return {kind: [_size(costs) for costs in _by_size(rounds)] for kind, rounds in step_costs.items()}


def _by_size(rounds: Sequence[Sequence[StepCost]]) -> list[list[tuple[StepCost, StepCost]]]:
    """For each size its costs, round by round, each beside that of the smallest size in the same round."""
    return [[(one[position], one[0]) for one in rounds] for position in range(len(rounds[0]))]


def _size(costs: Sequence[tuple[StepCost, StepCost]]) -> dict[str, float | None]:
    return {
        "size": costs[0][0].size,
        "ms_per_step": _median(own.ms_per_step for own, _ in costs),
        "cpu_us_per_step": _median(own.cpu_us_per_step for own, _ in costs),
        "ms_per_step_vs_smallest": _median(own.ms_per_step / least.ms_per_step for own, least in costs),
        # CPU time of next to no work may be none.
        "cpu_per_step_vs_smallest": _median(
            own.cpu_us_per_step / least.cpu_us_per_step for own, least in costs if least.cpu_us_per_step
        ),
    }


def _ratios(measured: Measured) -> dict[str, float | None]:
    """Ours to theirs: of each round, because the machine's speed moves between rounds; then the median."""
    found: dict[str, float | None] = {}
    for key in measured.keys:

        def ratio(figure: Callable[[Turn], float], key: str = key) -> float | None:
            pairs = [(one.turns[OURS], one.turns[key]) for one in measured.rounds if key in one.turns]
            # CPU time of next to no work may be none.
            return _median(figure(ours) / figure(theirs) for ours, theirs in pairs if figure(theirs))

        found[f"throughput_vs_{key}"] = ratio(lambda turn: turn.steps_per_s)
        found[f"cpu_vs_{key}"] = ratio(lambda turn: turn.cpu_us_per_step)
        found[f"latency_vs_{key}"] = ratio(lambda turn: percentile(turn.chain_ms, 50))
        found[f"diamond_latency_vs_{key}"] = ratio(lambda turn: percentile(turn.diamond_ms, 50))
        found[f"fanout_latency_vs_{key}"] = ratio(lambda turn: percentile(turn.fanout_ms, 50))
    found["two_orchestrators_vs_one"] = _median(
        steps_per_s(one.two_orchestrators) / one.turns[OURS].steps_per_s
        for one in measured.rounds
        if one.two_orchestrators is not None
    )
    for kind, rows in _large_tasks(measured.step_costs).items():
        for ratio_of in ("ms_per_step_vs_smallest", "cpu_per_step_vs_smallest"):
            found[f"{kind}_{ratio_of}"] = rows[-1][ratio_of]
    return found


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return rounded(statistics.median(found)) if found else None


def _round(one: Round) -> dict[str, Any]:
    found: dict[str, Any] = {key: _contender([turn]) for key, turn in one.turns.items()}
    if one.two_orchestrators is not None:
        found["chain_2"] = {"steps_per_s": rounded(steps_per_s(one.two_orchestrators))}
    return found


def machine() -> dict[str, Any]:
    """What this runs on, and how busy it is besides."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load_average_1m": rounded(os.getloadavg()[0]),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
