"""`stepweave bench`: the harness, in sizes that take seconds. What it measures is not judged here."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from stepweave_orchestrator.bench.child import ChildFailed, Program, run_to_end, running
from stepweave_orchestrator.bench.contender import Burst
from stepweave_orchestrator.bench.cpu import cpu_seconds
from stepweave_orchestrator.bench.dbos import running_dbos
from stepweave_orchestrator.bench.figures import figures, percentile
from stepweave_orchestrator.bench.idle import Idle
from stepweave_orchestrator.bench.installing import PeerMissing
from stepweave_orchestrator.bench.large import StepCost
from stepweave_orchestrator.bench.main import BenchFailed, main_bench, own_folder, run_interruptible
from stepweave_orchestrator.bench.peers import Peer, PeerPlace
from stepweave_orchestrator.bench.report import GOALS, print_report
from stepweave_orchestrator.bench.restate import running_restate
from stepweave_orchestrator.bench.rounds import RoundClock, Turn
from stepweave_orchestrator.bench.session import Measured, Round, measure_all
from stepweave_orchestrator.bench.sizes import FULL, QUICK, Sizes

CHECKOUT = Path(__file__).resolve().parents[2]

TINY = Sizes(
    rounds=1,
    two_orchestrator_rounds=1,
    chain_runs=3,
    diamond_runs=2,
    fanout_runs=1,
    runs_seconds_max=30.0,
    burst_chains=20,
    warm_up_chains=5,
    peer_burst_seconds=0.05,
    peer_warm_up_seconds=0.02,
    layered_runs={20: 1, 50: 1},
    batches_runs={10: 2, 30: 1, 60: 1},
    large_task_rounds=2,
    replay_seconds=0.05,
    idle_seconds=0.2,
    seconds_max=None,
    install_peers=False,
)

#: A peer that speaks the benchmark's protocol and runs nothing; it dies when it is told to.
PEER_PROGRAM = """
import json, sys
print("{}", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["measure"] == "latency":
        print(json.dumps({"ms": [10.0] * request["runs"]}), flush=True)
    elif "dies" in sys.argv:
        sys.exit("the peer is out of order")
    else:
        print(json.dumps({"tasks": 10, "seconds": 0.05}), flush=True)
"""


def program(tmp_path: Path, code: str, *arguments: str, answers: bool = True) -> Program:
    return Program(
        name="the program",
        command=[sys.executable, "-c", code, *arguments],
        folder=tmp_path,
        log=tmp_path / "logs" / "program.log",
        answers=answers,
    )


def place(tmp_path: Path) -> PeerPlace:
    return PeerPlace(
        packages=tmp_path / "peers",
        data=tmp_path / "run",
        logs=tmp_path / "logs",
        dsn="postgresql://nobody@127.0.0.1:1/nothing",
        postgres_pid=os.getpid(),
        install=False,
    )


# -- the whole run -----------------------------------------------------------------------------


def test_a_tiny_run_gives_every_figure(tmp_path: Path) -> None:
    @asynccontextmanager
    async def running_fake(there: PeerPlace) -> AsyncIterator[Peer]:
        async with running(program(there.logs, PEER_PROGRAM)) as client:
            yield Peer("Fake", [client], {}, {"version": "1"})

    said: list[str] = []
    peers = {"dbos": running_fake, "restate": running_restate}
    measured = run_interruptible(measure_all(tmp_path / "bench", TINY, peers=peers, say=said.append))
    found = json.loads(json.dumps(figures(measured, quick=True)))

    for key, figure in (
        ("chain", "p50_ms"),
        ("chain", "p95_ms"),
        ("chain", "steps_per_s"),
        ("chain", "cpu_us_per_step"),
        ("chain_2", "steps_per_s"),
        ("diamond", "p50_ms"),
        ("fanout", "p50_ms"),
        ("replay", "events_per_s"),
    ):
        assert found[key][figure] > 0, f"{key}.{figure}"
    assert found["chain"]["runs"] == 3
    assert found["chain"]["p50_ms"] <= found["chain"]["p95_ms"]
    assert set(found["chain"]["cpu_us_per_step_by"]) == {
        "orchestrators",
        "workers",
        "nats",
        "postgres",
        "client",
    }
    assert found["idle"]["pg_queries_per_s"] >= 0
    assert found["idle"]["cpu_percent"] >= 0
    large = found["large_tasks"]
    assert {kind: [row["size"] for row in rows] for kind, rows in large.items()} == {
        "layered": [20, 50],
        "batches": [10, 30, 60],
    }
    assert all(row["ms_per_step"] > 0 for rows in large.values() for row in rows)
    assert large["batches"][0]["ms_per_step_vs_smallest"] == 1
    assert (
        found["ratios"]["batches_ms_per_step_vs_smallest"] == large["batches"][-1]["ms_per_step_vs_smallest"]
    )
    assert len(found["rounds"]) == 1
    assert found["setups"]["stepweave"]["postgresql"]["fsync"] == "on"

    assert found["dbos"]["chain"]["p50_ms"] == 10.0
    assert found["dbos"]["chain"]["steps_per_s"] == pytest.approx(1000)
    assert found["ratios"]["throughput_vs_dbos"] == pytest.approx(
        found["chain"]["steps_per_s"] / 1000, rel=0.01
    )
    assert found["ratios"]["latency_vs_dbos"] == pytest.approx(found["chain"]["p50_ms"] / 10, rel=0.01)
    assert found["ratios"]["two_orchestrators_vs_one"] > 0

    assert list(found["restate"]) == ["skipped"]
    assert found["ratios"]["throughput_vs_restate"] is None
    assert found["ratios"]["latency_vs_restate"] is None
    assert any(line.startswith("without restate: ") for line in said)

    page = io.StringIO()
    print_report(found, Console(file=page, width=120))
    assert "Side by side" in page.getvalue()
    assert "60 batches" in page.getvalue()
    assert f"Restate was not measured: {found['restate']['skipped']}" in page.getvalue()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "import sys; from stepweave_orchestrator.bench import main_bench; sys.exit(main_bench(None, True))"
    with (tmp_path / "out").open("wb") as out:
        bench = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=out, stderr=out)
    try:
        wait_for(lambda: "idle cost" in (tmp_path / "out").read_text(), bench)
        children = psutil.Process(bench.pid).children(recursive=True)
        assert len(children) >= 4, "an orchestrator, a worker, NATS, PostgreSQL and its own processes"
        bench.send_signal(signal.SIGINT)
        assert bench.wait(timeout=120) == 130
    finally:
        bench.kill()
        bench.wait(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not (tmp_path / ".data" / "bench" / "run").exists()
    assert "Traceback" not in (tmp_path / "out").read_text()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_that_cannot_be_written_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_bench(tmp_path / "nowhere" / "found.json", True) == 1
    assert "found.json cannot be written: name another file" in capsys.readouterr().err
    assert not (tmp_path / ".data").exists()


def test_one_benchmark_at_a_time(tmp_path: Path) -> None:
    with own_folder(tmp_path / "bench") as folder:
        (folder / "run").mkdir()
        (folder / "peers").mkdir()
        with pytest.raises(BenchFailed, match="another benchmark runs in"), own_folder(folder):
            pass
        assert (folder / "run").exists(), "the one that was refused has removed nothing"
    assert not (folder / "run").exists()
    assert (folder / "peers").exists()


# -- before and after --------------------------------------------------------------------------

COMPARE = CHECKOUT / "benchmarks" / "compare.py"


def test_two_checkouts_take_turns(tmp_path: Path) -> None:
    few = ("--starts", "1", "--rounds", "2", "--runs", "1", "--tasks", "5")
    command = [sys.executable, str(COMPARE), str(CHECKOUT), *few, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rounds"]) == 2
    rows = {row["figure"]: row for row in found["rows"]}
    for figure in ("chain, p50 ms", "chain, steps/s", "diamond, p50 ms", "diamond, steps/s"):
        ratios = sorted(one["this"][figure] / one["base"][figure] for one in found["rounds"])
        assert rows[figure]["ratio"] == pytest.approx(sum(ratios) / 2)
        assert rows[figure]["range"] == pytest.approx(ratios)
        assert figure in done.stdout


def test_a_folder_without_the_project_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(COMPARE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is no checkout of this project: there is no schemas/stepweave_schemas" in done.stderr


# -- figures -----------------------------------------------------------------------------------


def turn(ms: float, tasks: int, cpu_seconds: float = 1.0) -> Turn:
    return Turn([ms] * 4, [ms], [ms], Burst(tasks, 1.0), {"all": cpu_seconds})


def test_ratios_are_those_of_one_round() -> None:
    # The machine is half as quick in the second round, and the peer stops in it.
    measured = Measured(Idle(1.0, {"nats": 0.25, "postgres": 0.5}, 30.0))
    measured.rounds = [
        Round({"stepweave": turn(10, 1000), "dbos": turn(20, 100)}, Burst(1500, 1.0)),
        Round({"stepweave": turn(20, 500), "dbos": turn(40, 50)}),
        Round({"stepweave": turn(10, 1000)}),
    ]
    measured.settings = {"stepweave": {}, "dbos": {}}
    measured.skipped = {"dbos": "it died"}
    found = figures(measured, quick=False)
    assert found["ratios"]["throughput_vs_dbos"] == 10
    assert found["ratios"]["latency_vs_dbos"] == 0.5
    assert found["ratios"]["two_orchestrators_vs_one"] == 1.5
    assert found["chain"] == {
        "p50_ms": 10,
        "p95_ms": 20,
        "runs": 12,
        "steps_per_s": 5000,
        "cpu_us_per_step": 200,
        "cpu_us_per_step_by": {"all": 200},
    }
    assert found["dbos"]["skipped"] == "it died"
    assert found["idle"]["cpu_percent"] == 0.75


def test_the_cost_in_a_large_task_is_compared_within_a_round() -> None:
    # The machine is half as quick in the second round, and the kernel counts no CPU time for the third small task.
    measured = Measured(Idle(1.0, {}, 30.0))
    measured.step_costs = {
        "batches": [
            [StepCost(100, 1.0, 400.0), StepCost(1_000, 1.1, 440.0)],
            [StepCost(100, 2.0, 800.0), StepCost(1_000, 2.4, 880.0)],
            [StepCost(100, 1.0, 0.0), StepCost(1_000, 1.2, 300.0)],
        ]
    }
    measured.rounds = [Round({"stepweave": turn(10, 1000)})]
    found = figures(measured, quick=False)
    assert found["large_tasks"]["batches"][1] == {
        "size": 1_000,
        "ms_per_step": 1.2,
        "cpu_us_per_step": 440,
        "ms_per_step_vs_smallest": 1.2,
        "cpu_per_step_vs_smallest": 1.1,
    }
    assert found["ratios"]["batches_ms_per_step_vs_smallest"] == 1.2
    assert found["ratios"]["batches_cpu_per_step_vs_smallest"] == 1.1
    about_batches = [goal.read(found) for goal in GOALS if "batches" in goal.what]
    assert about_batches == [1.2, 1.1], "the report judges the largest"


@pytest.mark.parametrize(("percent", "value"), [(50, 3), (95, 5), (1, 1), (100, 5)])
def test_percentile(percent: int, value: float) -> None:
    assert percentile([5, 1, 4, 2, 3], percent) == value


def test_no_round_begins_that_would_end_too_late() -> None:
    clock = RoundClock(QUICK, time.monotonic())
    assert QUICK.seconds_max is not None
    clock.took(1.0)
    assert clock.has_time()
    clock.took(QUICK.seconds_max)
    assert not clock.has_time()
    late = RoundClock(QUICK, time.monotonic() - 1000)
    assert late.has_time(), "there is always a first round"
    unlimited = RoundClock(FULL, time.monotonic() - 100_000)
    unlimited.took(1000.0)
    assert unlimited.has_time()


def test_cpu_time_counts_descendants_but_not_those_of_this_process(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}]); print('{{}}', flush=True); input()"

    async def work() -> tuple[float, float, float]:
        own_before = cpu_seconds({"own": [os.getpid()]})["own"]
        async with running(program(tmp_path, code)) as child:
            found = cpu_seconds({"child": [child.pid], "gone": [2**22 + 1]})
            return found["child"], found["gone"], cpu_seconds({"own": [os.getpid()]})["own"] - own_before

    child, gone, own = asyncio.run(work())
    assert child >= 0.3
    assert gone == 0
    assert own < child


# -- peers and processes -----------------------------------------------------------------------


def test_a_peer_that_fails_is_left_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(program(tmp_path, PEER_PROGRAM, "dies")) as client:
            peer = Peer("Fake", [client], {}, {})
            assert await peer.latency_ms("chain", runs=2, seconds_max=1.0) == [10.0, 10.0]
            with pytest.raises(ChildFailed, match=r"(?s)the program ended.*the peer is out of order"):
                await peer.burst(TINY)

    asyncio.run(work())


def test_peers_that_are_not_installed_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(run_peer: Callable[[PeerPlace], object]) -> None:
        async with run_peer(place(tmp_path)):  # type: ignore[attr-defined]
            pytest.fail("it is not installed")

    with pytest.raises(
        PeerMissing, match="DBOS is not installed yet: run `stepweave bench` once without --quick"
    ):
        asyncio.run(start(running_dbos))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerMissing, match=r"Restate needs Node\.js: there is no node on the PATH"):
        asyncio.run(start(running_restate))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no database')", "(?s)the program ended.*no database"),
        ("print('ready', flush=True); input()", "the program wrote what is not JSON"),
        ('print(\'{"error": "bad settings"}\', flush=True); input()', "the program says: bad settings"),
    ],
)
def test_a_child_that_does_not_come_up_says_why(tmp_path: Path, code: str, message: str) -> None:
    async def work() -> None:
        async with running(program(tmp_path, code)):
            pytest.fail("it is not ready")

    with pytest.raises(ChildFailed, match=message):
        asyncio.run(work())


def test_a_child_ends_with_its_block_and_takes_its_own_children_with_it(tmp_path: Path) -> None:
    grandchild = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = (
        f"import subprocess, sys; one = subprocess.Popen([sys.executable, '-c', {grandchild!r}], stdout=2);"
        "print(one.pid, flush=True); input()"
    )

    async def work() -> psutil.Process:
        found: list[int] = []

        async def ready(child: object) -> None:
            found.append(await child.answer(timeout_seconds=30))  # type: ignore[attr-defined]

        async with running(program(tmp_path, code), ready=ready):
            return psutil.Process(found[0])

    grandchild_process = asyncio.run(work())
    assert psutil.wait_procs([grandchild_process], timeout=60)[1] == []


def test_an_installation_that_fails_says_why(tmp_path: Path) -> None:
    failing = program(tmp_path, "import sys; sys.exit('no network')", answers=False)
    with pytest.raises(ChildFailed, match=r"(?s)ended with exit code 1.*no network"):
        asyncio.run(run_to_end(failing, timeout_seconds=30))
    hanging = program(tmp_path, "import time; time.sleep(600)", answers=False)
    with pytest.raises(ChildFailed, match=r"did not end within 0\.2 s"):
        asyncio.run(run_to_end(hanging, timeout_seconds=0.2))
