"""What the core asks about values: whether they fit the schemas of their template.

The schemas are compiled outside (`stepweave_schemas.template.value_checks`) and come with the plan. Their answers
are a pure function of template and value, and stand in the events; `evolve` never asks.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class Checks(Protocol):
    """For each value what of it does not fit: JSON `pointer` and `message` of each violation, none where it fits.

    `step` is the name of a step of the template.
    """

    def of_result(self, step: str, result: msgspec.Raw) -> list[dict[str, str]]:
        """Of a step's result."""
        ...

    def of_signal(self, step: str, payload: Any) -> list[dict[str, str]]:
        """Of the payload of a signal that the step waits for, decoded: also what a result of it has to fit."""
        ...

    def of_event(self, step: str, name: str, payload: msgspec.Raw) -> list[dict[str, str]]:
        """Of the payload of a domain event."""
        ...
