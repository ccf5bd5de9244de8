"""What the parts of the client need of it: a way to ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from stepweave_schemas import api

T = TypeVar("T")


class Calls(ABC):
    """Base of the parts of `Client`, which says how a request is answered."""

    @abstractmethod
    async def _call(
        self, operation: str, request: api.Request, reply_type: type[T], timeout_seconds: float | None
    ) -> T:
        """Send a request until it is answered; raises `ApiError` where it is refused."""
