"""An orchestrator as a child process of a fault test; its settings come from the environment."""

import uvloop

from stepweave_orchestrator.runtime.process import run_orchestrator
from stepweave_orchestrator.runtime.settings import Settings

uvloop.run(run_orchestrator(Settings.from_environment(), lambda _: print("ready", flush=True)))
