"""An orchestrator of the benchmark: `python -m stepweave_orchestrator.bench.orchestrator_process`.

`DATABASE_URL` and `NATS_URL` say where its servers are. It writes a line when it answers requests, and hands its
shards over on SIGTERM.
"""

from __future__ import annotations

import uvloop

from stepweave_orchestrator.cli.logs import LogLevelName, LogStyle, configure_logs
from stepweave_orchestrator.runtime.process import run_orchestrator
from stepweave_orchestrator.runtime.settings import Settings

if __name__ == "__main__":
    configure_logs(LogLevelName.WARNING, LogStyle.CONSOLE)
    uvloop.run(run_orchestrator(Settings.from_environment(), lambda _: print("{}", flush=True)))
