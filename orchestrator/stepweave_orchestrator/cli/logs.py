"""Logs of the processes that the command line runs: to stderr, for people or as JSON."""

from __future__ import annotations

from collections.abc import MutableMapping
from enum import StrEnum
from typing import Annotated, Any

import typer


class LogLevelName(StrEnum):
    """The values of `--log-level`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogStyle(StrEnum):
    """The values of `--log-format`."""

    CONSOLE = "console"
    JSON = "json"


LogLevel = Annotated[
    LogLevelName,
    typer.Option("--log-level", help="The least that is logged.", metavar="debug|info|warning|error"),
]
LogFormat = Annotated[
    LogStyle,
    typer.Option("--log-format", help="Lines for people, or one JSON object a line.", metavar="console|json"),
]


def configure_logs(level: LogLevelName, style: LogStyle) -> None:
    """Send all logs of this process to stderr, those of the orchestrator's structlog loggers too."""
    import structlog

    from stepweave.telemetry import configure_logging

    configure_logging(level.upper(), "json" if style is LogStyle.JSON else "console")
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _to_record,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _to_record(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """The last processor: what was logged becomes a standard log record, as the SDK's own loggers do it."""
    event = str(fields.pop("event", ""))
    exc_info = fields.pop("exc_info", None)
    text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
    return (text,), {"extra": {"fields": dict(fields), "event": event}, "exc_info": exc_info}
