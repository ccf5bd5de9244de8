"""What `stepweave orchestrator run` does while it runs."""

from __future__ import annotations

import os

import structlog

from stepweave_orchestrator.runtime.process import running_orchestrator
from stepweave_orchestrator.runtime.settings import Settings
from stepweave_orchestrator.version import VERSION

log = structlog.get_logger("stepweave.orchestrator")


async def run_orchestrator(
    *, database_url: str, nats_url: str, owner: str | None, shard_count: int | None
) -> None:
    """Run until cancelled, then hand everything over; raises where a part failed for good."""
    settings = Settings.from_environment(
        database_url=database_url, nats_url=nats_url, owner=owner, shard_count=shard_count
    )
    async with running_orchestrator(settings) as orchestrator:
        log.info(
            "ready",
            owner=settings.owner,
            version=VERSION,
            pid=os.getpid(),
            shards=sorted(orchestrator.owner.shards),
            shard_count=orchestrator.shard_count,
        )
        await orchestrator.run()
