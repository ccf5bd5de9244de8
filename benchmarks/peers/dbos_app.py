"""The benchmark's workflows as a DBOS application, which times them itself.

`BENCH_DATABASE_URL` names its database and `BENCH_EXECUTOR` this process. It writes a line of JSON when it is launched, and answers each line of JSON
that it reads with another one:

    {"measure": "settings"}                                                          {"version": …, …}
    {"measure": "latency", "workflow": "chain", "runs": 20, "seconds_max": 5}        {"ms": [21.3, …]}
    {"measure": "burst", "workflow": "chain", "seconds": 5}                          {"tasks": 300, "seconds": 5.2}

What its documentation offers was tried (see `benchmarks/README.md`): workflows alone are quickest called directly as
coroutines, their parallel steps gathered; many at once are quickest as plain functions, started in the background on
few threads.
"""

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dbos import DBOS, DBOSConfig

EXECUTOR_THREADS = 8
#: Workflows under way at once in a burst.
BURST_WORKFLOWS = 64

CONFIG: DBOSConfig = {
    "name": "bench",
    "system_database_url": os.environ["BENCH_DATABASE_URL"],
    "max_executor_threads": EXECUTOR_THREADS,
    "log_level": "WARNING",
    "application_version": "bench",
    "executor_id": os.environ["BENCH_EXECUTOR"],
}


@DBOS.step()
async def step() -> dict[str, bool]:
    return {"ok": True}


@DBOS.workflow()
async def chain() -> dict[str, bool]:
    for _ in range(4):
        await step()
    return await step()


@DBOS.workflow()
async def diamond() -> dict[str, bool]:
    await step()
    await asyncio.gather(step(), step())
    return await step()


@DBOS.workflow()
async def fanout() -> dict[str, bool]:
    await asyncio.gather(*(step() for _ in range(100)))
    return await step()


@DBOS.step()
def plain_step() -> dict[str, bool]:
    return {"ok": True}


@DBOS.workflow()
def plain_chain() -> dict[str, bool]:
    for _ in range(4):
        plain_step()
    return plain_step()


async def latency(workflow: str, runs: int, seconds_max: float) -> dict[str, Any]:
    run = {"chain": chain, "diamond": diamond, "fanout": fanout}[workflow]
    end = time.perf_counter() + seconds_max
    found: list[float] = []
    while not found or (len(found) < runs and time.perf_counter() < end):
        started = time.perf_counter()
        await run()
        found.append((time.perf_counter() - started) * 1000)
    return {"ms": found}


def burst(seconds: float) -> dict[str, Any]:
    def one() -> None:
        DBOS.start_workflow(plain_chain).get_result()

    started = time.perf_counter()
    tasks = 0
    under_way: set[Future[None]] = set()
    with ThreadPoolExecutor(BURST_WORKFLOWS) as waiting:
        while time.perf_counter() - started < seconds or under_way:
            while len(under_way) < BURST_WORKFLOWS and time.perf_counter() - started < seconds:
                under_way.add(waiting.submit(one))
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for finished in done:
                finished.result()
            tasks += len(done)
    return {"tasks": tasks, "seconds": time.perf_counter() - started}


async def answer(request: dict[str, Any]) -> dict[str, Any]:
    match request.pop("measure"):
        case "latency":
            return await latency(**request)
        case "burst":
            return await asyncio.to_thread(burst, request["seconds"])
    return {
        "version": importlib.metadata.version("dbos"),
        "latency": "workflows called directly as coroutines, parallel steps gathered",
        "bursts": f"plain functions started in the background on {EXECUTOR_THREADS} threads",
    }


async def main() -> None:
    DBOS(config=CONFIG)
    DBOS.launch()
    print("{}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
