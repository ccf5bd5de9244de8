"""What a change of the code costs: chain and diamond with another checkout of the project and with this one.

Make a work tree of the commit to compare with, and name its folder:

    git worktree add ../before HEAD~5
    .venv/bin/python benchmarks/compare.py ../before

Both run in this environment, each with all of its own code: orchestrator, worker, client. Each has embedded servers
of its own, and the same worker (one process, 500 steps at a time, an async handler that does nothing) and load. They
take turns, round by round, the one that begins changing each time; a ratio is one of a round. After some rounds all
processes of both are started anew, because one process may be quicker than the next for as long as it lives.

How far the ratios are to be trusted shows their spread, and a comparison of this checkout with itself
(`benchmarks/compare.py .`).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from stepweave.messaging import Connection
from stepweave_orchestrator.bench.child import Child, ChildFailed, Program, running
from stepweave_orchestrator.bench.completions import Completions
from stepweave_orchestrator.bench.cpu import cpu_seconds, used_between
from stepweave_orchestrator.bench.main import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, run_interruptible
from stepweave_orchestrator.bench.rounds import SETTLE_SECONDS
from stepweave_orchestrator.bench.sizes import FULL
from stepweave_orchestrator.bench.stepweave_system import StepweaveSystem, running_stepweave
from stepweave_orchestrator.bench.workflows import CHAIN_STEPS, NAMESPACE, Workflow
from stepweave_schemas.mint import uuid7

#: Where each package of a checkout is.
PACKAGES: Final = {
    "stepweave_schemas": "schemas",
    "stepweave_eventstore": "eventstore",
    "stepweave_orchestrator": "orchestrator",
    "stepweave": "worker/python",
}
WORKFLOW_STEPS: Final[dict[Workflow, int]] = {"chain": CHAIN_STEPS, "diamond": 4}
RUNS_SECONDS_MAX: Final = 60.0
TIMEOUT_SECONDS: Final = 300.0
#: The second and the third of these parts are the middle half of the ratios.
QUARTERS: Final = 4


# -- one checkout, in a process of its own -------------------------------------------------------


async def serve(folder: Path, chains: int) -> None:
    """Run the system of the code that this process has, and measure what each line of JSON asks for."""
    sizes = dataclasses.replace(FULL, warm_up_chains=max(1, chains // 4))
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_stepweave(folder, folder / "logs", sizes))
        connection = await stack.enter_async_context(
            await Connection.open(system.servers.nats_url, name="compare-completions")
        )
        completions = await Completions.listen(connection)
        await system.warm_up(sizes)
        places = {name: Path(str(importlib.import_module(name).__file__)).parent for name in PACKAGES}
        print(json.dumps({name: str(place) for name, place in places.items()}), flush=True)
        asked = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(asked), sys.stdin
        )
        while line := await asked.readline():
            request = json.loads(line)
            found: dict[str, float] = {}
            for workflow in WORKFLOW_STEPS:
                found |= await measure(system, completions, workflow, **request)
            print(json.dumps(found), flush=True)


async def measure(
    system: StepweaveSystem, completions: Completions, workflow: Workflow, *, runs: int, tasks: int
) -> dict[str, float]:
    """The median latency of tasks alone, then the speed and the CPU time of many at once."""
    alone = await system.latency_ms(workflow, runs=runs, seconds_max=RUNS_SECONDS_MAX)
    await asyncio.sleep(SETTLE_SECONDS)
    steps = tasks * WORKFLOW_STEPS[workflow]
    before = cpu_seconds(system.processes)
    seconds = await burst(system, completions, workflow, tasks)
    await asyncio.sleep(SETTLE_SECONDS)
    used = used_between(before, cpu_seconds(system.processes))
    return {
        f"{workflow}, p50 ms": statistics.median(alone),
        f"{workflow}, steps/s": steps / seconds,
        f"{workflow}, CPU µs a step": sum(used.values()) * 1e6 / steps,
        f"{workflow}, orchestrator's CPU µs a step": used["orchestrators"] * 1e6 / steps,
    }


async def burst(system: StepweaveSystem, completions: Completions, workflow: Workflow, tasks: int) -> float:
    """Submit tasks in bulk; seconds until the last one is complete."""
    task_ids = [uuid7() for _ in range(tasks)]
    requests = [
        {"name": workflow, "namespace": NAMESPACE, "context": {"a": 1}, "task_id": task_id}
        for task_id in task_ids
    ]
    expected = completions.expect(task_ids)
    started = time.perf_counter()
    for answer in await system.client.create_tasks(requests, timeout_seconds=TIMEOUT_SECONDS):
        if answer.error is not None:
            raise answer.error
    return await expected.wait(TIMEOUT_SECONDS) - started


# -- both, in turns ------------------------------------------------------------------------------


def side(name: str, checkout: Path, folder: Path, chains: int) -> Program:
    """The process that runs the code of a checkout."""
    return Program(
        name=f"the process of {name} ({checkout})",
        command=[
            sys.executable,
            str(Path(__file__).resolve()),
            "--serve",
            str(folder),
            "--tasks",
            str(chains),
        ],
        folder=folder,
        log=folder / "log",
        # It goes before the folders of an editable installation.
        environment={"PYTHONPATH": os.pathsep.join(str(checkout / part) for part in PACKAGES.values())},
    )


async def has_its_own_code(child: Child, *, checkout: Path) -> None:
    """Wait until it is ready; raises `ChildFailed` where it runs other code than that of its checkout."""
    places = await child.answer(timeout_seconds=TIMEOUT_SECONDS)
    for name, place in places.items():
        if Path(place) != checkout / PACKAGES[name] / name:
            raise child.failed(f"has {name} from {place}")


Round = dict[str, dict[str, float]]


async def compare(base: Path, this: Path, arguments: argparse.Namespace) -> list[Round]:
    """What was measured of both sides, round by round."""
    rounds: list[Round] = []
    for start in range(1, arguments.starts + 1):
        with tempfile.TemporaryDirectory(
            prefix="stepweave-compare-", ignore_cleanup_errors=True
        ) as temporary:
            async with AsyncExitStack() as stack:
                sides: dict[str, Child] = {}
                for name, checkout in (("base", base), ("this", this)):
                    folder = Path(temporary) / name
                    folder.mkdir()
                    program = side(name, checkout, folder, arguments.tasks)
                    ready = partial(has_its_own_code, checkout=checkout)
                    sides[name] = await stack.enter_async_context(running(program, ready=ready))
                for number in range(1, arguments.rounds + 1):
                    say(f"start {start} of {arguments.starts}, round {number} of {arguments.rounds}")
                    rounds.append(await take_turns(sides, len(rounds) % 2 == 1, arguments))
    return rounds


async def take_turns(sides: Mapping[str, Child], this_first: bool, arguments: argparse.Namespace) -> Round:
    """One round."""
    request = {"runs": arguments.runs, "tasks": arguments.tasks}
    return {
        name: await sides[name].ask(request, timeout_seconds=TIMEOUT_SECONDS)
        for name in sorted(sides, reverse=this_first)
    }


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{text}, load average {os.getloadavg()[0]:.2f}", file=sys.stderr, flush=True)


def rows(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """For each figure its medians, and the ratios of this to base: median, middle half, least and most."""
    found = []
    for figure in rounds[0]["this"]:
        # CPU time of next to no work may be none.
        ratios = [one["this"][figure] / one["base"][figure] for one in rounds if one["base"][figure]]
        quarters = (
            statistics.quantiles(ratios, n=QUARTERS, method="inclusive") if len(ratios) > 1 else ratios * 3
        )
        found.append(
            {
                "figure": figure,
                **{name: statistics.median(one[name][figure] for one in rounds) for name in ("base", "this")},
                "ratio": statistics.median(ratios) if ratios else None,
                "middle_half": [quarters[0], quarters[2]] if ratios else None,
                "range": [min(ratios), max(ratios)] if ratios else None,
            }
        )
    return found


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows."""
    print(f"{'':<40} {'base':>10} {'this':>10} {'this/base':>10} {'middle half':>15} {'range':>15}")
    for row in found:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
        middle, whole = (
            "–" if row[key] is None else f"{row[key][0]:.2f} – {row[key][1]:.2f}"
            for key in ("middle_half", "range")
        )
        print(
            f"{row['figure']:<40} {row['base']:>10.4g} {row['this']:>10.4g} {ratio:>10} {middle:>15} {whole:>15}"
        )


def main() -> int:
    """Compare and print; returns the exit code."""
    parser = argparse.ArgumentParser(description="Chain and diamond, with the code before and with this one.")
    parser.add_argument("base", type=Path, nargs="?", help="folder of the other checkout")
    parser.add_argument("--starts", type=int, default=3, help="how often all processes are started anew")
    parser.add_argument("--rounds", type=int, default=6, help="rounds after each start")
    parser.add_argument("--runs", type=int, default=50, help="tasks alone, of each workflow and round")
    parser.add_argument("--tasks", type=int, default=1_000, help="tasks of a burst")
    parser.add_argument("--json", type=Path, help="also write rows and rounds to this file")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.starts, arguments.rounds, arguments.runs, arguments.tasks) < 1:
        parser.error("--starts, --rounds, --runs and --tasks: expected at least 1")
    if arguments.serve is not None:
        # It is told to end by SIGTERM.
        with suppress(KeyboardInterrupt):
            run_interruptible(serve(arguments.serve, arguments.tasks))
        return EXIT_OK
    this = Path(__file__).resolve().parents[1]
    base = (arguments.base or parser.error("name the folder of the other checkout")).resolve()
    for name, part in PACKAGES.items():
        if not (base / part / name).is_dir():
            parser.error(f"{base} is no checkout of this project: there is no {part}/{name}")
    load_before = os.getloadavg()[0]
    try:
        rounds = run_interruptible(compare(base, this, arguments))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ChildFailed as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return EXIT_FAILED
    found = rows(rounds)
    show(found)
    print(
        f"{len(rounds)} rounds; load average {load_before:.2f} before, {os.getloadavg()[0]:.2f} after "
        f"(it counts what is measured too), {os.cpu_count()} cores"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": found, "rounds": rounds}, indent=2) + "\n", "utf-8")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
