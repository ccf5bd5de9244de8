"""`stepweave bench`: how quick Stepweave is on this machine, beside other systems.

Everything runs as users run it: embedded PostgreSQL and NATS with their default durability (fsync on), an
orchestrator and a worker as processes of their own, a client that submits over NATS and sees tasks complete on the
signal feed. The machine's speed moves within minutes, so the contenders take turns, round by round; the figures are
medians and the ratios are those of one round.

| file | concept |
|---|---|
| `main` | the way in: exit codes, Ctrl-C |
| `sizes` | how much is measured: full, quick |
| `workflows` | the templates that are run |
| `child` | a process of the benchmark, asked by lines of JSON |
| `cpu` | the CPU time of processes |
| `contender` | what is measured: a system that runs workflows |
| `stepweave_system`, `orchestrator_process`, `worker_process`, `completions` | Stepweave as a contender |
| `peers`, `dbos`, `restate`, `installing` | other systems as contenders; their programs are in `benchmarks/peers` |
| `rounds` | the contenders taking turns |
| `idle`, `large`, `replay` | the measures that are ours alone |
| `session` | everything in order |
| `figures`, `report` | medians and ratios, the JSON file and the table |
"""

from .main import main_bench

__all__ = ["main_bench"]
