"""JSON Schema checks of the testing kit, where the library for them is installed."""

from __future__ import annotations

from typing import Any

from stepweave.errors import ConfigurationError


def violations(schema: Any, value: Any) -> list[dict[str, str]]:
    """What of a value does not fit a schema: JSON pointer and message of each violation; nothing without a schema.

    Raises `ConfigurationError` where the library is missing.
    """
    if schema is None:
        return []
    try:
        import jsonschema_rs
    except ImportError:
        raise ConfigurationError(
            "the template has a schema, and checking it needs the extra: pip install 'stepweave[server]'"
        ) from None
    return [
        {"pointer": "".join(f"/{part}" for part in error.instance_path), "message": error.message}
        for error in jsonschema_rs.validator_for(schema).iter_errors(value)
    ]
