"""The worker: from a dispatch to its result.

    PullLoop ─▶ Worker._take ─▶ TryPool ─▶ run_handler_once ─▶ outcome_of ─▶ ResultPublisher ─▶ ack
                (intake)        (slots)    (execution)                       (packed, JetStream)

A try is *held* from its delivery until its result is stored in JetStream; only then is its dispatch
acknowledged, so a crash in between delivers it again. A second delivery is never run: the worker reports the
try as lost, and the orchestrator decides about the next one.
"""

from .worker import Worker

__all__ = ["Worker"]
