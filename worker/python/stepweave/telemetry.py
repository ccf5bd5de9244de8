"""Logs and traces of the SDK.

Logs go through the standard `logging` module under the logger `stepweave`: a program that has set up logging
sees them like any other, and each record carries its fields as the dict `record.fields`. `configure_logging`
is for programs of ours (the command line), which print them to stderr, for people or as JSON.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import msgspec
import structlog

_encoder = msgspec.json.Encoder(enc_hook=str)


def _to_record(
    _logger: Any, _method: str, event_dict: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """The last processor: event and fields become a standard log record."""
    event = str(event_dict.pop("event", ""))
    exc_info = event_dict.pop("exc_info", None)
    fields = dict(event_dict)
    text = " ".join([event, *(f"{key}={value}" for key, value in fields.items())])
    # Percent signs are safe: without arguments `logging` does not format the message.
    return (text,), {"extra": {"fields": fields, "event": event}, "exc_info": exc_info}


_PROCESSORS: list[Any] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    _to_record,
]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger: `log.info("worker started", worker_id=…)`; fields may be bound to it."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None) or record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoder.encode(line).decode()


def configure_logging(
    level: str = "INFO", style: Literal["console", "json"] = "console", stream: TextIO | None = None
) -> None:
    """Send the logs of the whole process to `stream` (stderr), as lines for people or as JSON.

    Replaces what an earlier call set up; handlers that others added to the root logger stay.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name("stepweave")
    if style == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
        )
    root = logging.getLogger()
    for old in list(root.handlers):
        if old.get_name() == "stepweave":
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
