"""What gates cost: a chain of five steps that do nothing, without gates and behind one of each kind with room.

    .venv/bin/python benchmarks/gates.py

The variants take turns, round by round, in an order that shifts by one each time; a ratio is one of a round, to the
chain without gates. The rate is that of a namespace, so its chain runs in a second installation beside the first,
whose orchestrator has the setting; both have embedded servers of their own and the same kind of worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from stepweave.messaging import Connection
from stepweave_orchestrator.bench.completions import Completions
from stepweave_orchestrator.bench.cpu import cpu_seconds, used_between
from stepweave_orchestrator.bench.main import EXIT_INTERRUPTED, EXIT_OK, run_interruptible
from stepweave_orchestrator.bench.rounds import SETTLE_SECONDS
from stepweave_orchestrator.bench.sizes import QUICK
from stepweave_orchestrator.bench.stepweave_system import StepweaveSystem, running_stepweave
from stepweave_orchestrator.bench.workflows import CHAIN_STEPS, HANDLER, NAMESPACE
from stepweave_schemas.mint import uuid7

TIMEOUT_SECONDS: Final = 300.0
#: Far above what is reached here: nobody waits.
ROOM: Final = 1_000_000
#: Values of the concurrency key, each of which has slots of its own.
KEYS: Final = 100
RATES_VARIABLE: Final = "STEPWEAVE_RATES_BY_NAMESPACE"


class Variant(NamedTuple):
    """A chain behind one kind of gate."""

    title: str
    #: Of its template, and what each of its steps has besides.
    name: str
    gate: dict[str, Any]
    has_rate: bool = False


PLAIN: Final = Variant("no gates", "plain", {})
VARIANTS: Final = (
    PLAIN,
    Variant("a closed circuit", "breaker", {"system_dependency": "bank", "circuit_breaker": {}}),
    Variant(f"slots, {KEYS} keys", "slots_of_keys", {"concurrency": {"key": "key", "limit": ROOM}}),
    Variant("slots, one key", "slots_of_one", {"concurrency": {"limit": ROOM}}),
    Variant("a rate", "paced", {}, has_rate=True),
)


def template(variant: Variant) -> str:
    """The chain of a variant."""
    steps = [
        {
            "name": f"step_{number}",
            "handler": {"callable": HANDLER},
            "dependencies": [f"step_{number - 1}"] if number else [],
            **variant.gate,
        }
        for number in range(CHAIN_STEPS)
    ]
    return json.dumps({"namespace": NAMESPACE, "name": variant.name, "version": "1.0.0", "steps": steps})


class Place(NamedTuple):
    """An installation, and who sees its tasks complete."""

    system: StepweaveSystem
    completions: Completions


async def measure(place: Place, variant: Variant, runs: int, tasks: int) -> dict[str, float]:
    """The median latency of tasks alone, then the speed and the CPU time of many at once."""
    alone = [await place.system.run_alone(variant.name, {"key": number % KEYS}) for number in range(runs)]
    await asyncio.sleep(SETTLE_SECONDS)
    before = cpu_seconds(place.system.processes)
    seconds = await burst(place, variant, tasks)
    await asyncio.sleep(SETTLE_SECONDS)
    used = used_between(before, cpu_seconds(place.system.processes))
    steps = tasks * CHAIN_STEPS
    return {
        "p50 ms a step": statistics.median(alone) * 1_000 / CHAIN_STEPS,
        "steps/s": steps / seconds,
        "CPU µs a step": sum(used.values()) * 1e6 / steps,
    }


async def burst(place: Place, variant: Variant, tasks: int) -> float:
    """Submit tasks in bulk; seconds until the last one is complete."""
    requests = [
        {
            "name": variant.name,
            "namespace": NAMESPACE,
            "context": {"key": number % KEYS},
            "task_id": uuid7(),
        }
        for number in range(tasks)
    ]
    expected = place.completions.expect([str(request["task_id"]) for request in requests])
    started = time.perf_counter()
    for answer in await place.system.client.create_tasks(requests, timeout_seconds=TIMEOUT_SECONDS):
        if answer.error is not None:
            raise answer.error
    return await expected.wait(TIMEOUT_SECONDS) - started


async def run(arguments: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """What was measured, round by round, by the title of each variant."""
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="stepweave-gates-", ignore_cleanup_errors=True) as temporary:
        async with AsyncExitStack() as stack:
            places: dict[bool, Place] = {}
            for has_rate in (False, True):
                folder = Path(temporary) / ("paced" if has_rate else "plain")
                folder.mkdir()
                (folder / "logs").mkdir()
                rates = {RATES_VARIABLE: json.dumps({NAMESPACE: ROOM})} if has_rate else {}
                system = await stack.enter_async_context(
                    running_stepweave(folder / "data", folder / "logs", QUICK, environment=rates)
                )
                connection = await stack.enter_async_context(
                    await Connection.open(system.servers.nats_url, name="gates-completions")
                )
                places[has_rate] = Place(system, await Completions.listen(connection))
            for variant in VARIANTS:
                await places[variant.has_rate].system.client.register_template(template(variant))
                await burst(places[variant.has_rate], variant, max(1, arguments.tasks // 4))
            for number in range(arguments.rounds):
                print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
                first = number % len(VARIANTS)
                rounds.append(
                    {
                        variant.title: await measure(
                            places[variant.has_rate], variant, arguments.runs, arguments.tasks
                        )
                        for variant in (*VARIANTS[first:], *VARIANTS[:first])
                    }
                )
    return rounds


def show(rounds: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print the medians, and the ratios to the chain without gates: median, least and most."""
    print(f"{'':<18} {'figure':<16} {'median':>10} {'ratio':>8} {'range':>15}")
    for variant in VARIANTS:
        for figure in rounds[0][PLAIN.title]:
            own = statistics.median(one[variant.title][figure] for one in rounds)
            ratios = [
                one[variant.title][figure] / one[PLAIN.title][figure]
                for one in rounds
                # CPU time of next to no work may be none.
                if one[PLAIN.title][figure]
            ]
            spread = f"{min(ratios):.2f} – {max(ratios):.2f}" if ratios else "–"
            ratio = f"{statistics.median(ratios):.2f}" if ratios else "–"
            print(f"{variant.title:<18} {figure:<16} {own:>10.4g} {ratio:>8} {spread:>15}")


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description="What a step costs behind a gate with room.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--runs", type=int, default=40, help="tasks alone, of each variant and round")
    parser.add_argument("--tasks", type=int, default=1_000, help="tasks of a burst")
    parser.add_argument("--json", type=Path, help="also write the rounds to this file")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.runs, arguments.tasks) < 1:
        parser.error("--rounds, --runs and --tasks: expected at least 1")
    load_before = os.getloadavg()[0]
    try:
        rounds = run_interruptible(run(arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    show(rounds)
    print(f"{len(rounds)} rounds; load average {load_before:.2f} before, {os.cpu_count()} cores")
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=2) + "\n", "utf-8")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
