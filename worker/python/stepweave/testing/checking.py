"""JSON Schema checks of the testing kit, where the library for them is installed."""

from __future__ import annotations

from stepweave.errors import ConfigurationError
from stepweave_schemas.template import TaskTemplate
from stepweave_schemas.template.value_checks import ValueChecks


def checks_of(template: TaskTemplate) -> ValueChecks:
    """The compiled schemas of a template; raises `ConfigurationError` where it has some and the library is missing."""
    try:
        return ValueChecks(template.canonical())
    except ImportError:
        raise ConfigurationError(
            "the template has a schema, and checking it needs the extra: pip install 'stepweave[server]'"
        ) from None
