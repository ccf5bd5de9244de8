"""Calls to HTTP APIs from steps, with the failures sorted into those that another try may mend and those it cannot.

- `Api` and `AsyncApi` make the calls; handlers get one of them as their parameter `api` (`@api_handler`) or are
  `ApiHandler`s (`stepweave.api_handler`).
- `ApiSettings` are the base URL, headers and time-out: those of the code, overridden by the template's
  `handler.initialization`.
- `ApiResponse` is an answer, read whole within a bound.
- `classification` says what a status or a broken connection means for the step.
- `clients` keeps the connections: one bounded pool for each server in a worker process.

It needs httpx: `pip install 'stepweave[http]'`. Nothing of it is imported before the first call.
"""

from .calls import Api, AsyncApi
from .response import ApiResponse
from .settings import ApiSettings

__all__ = ["Api", "ApiResponse", "ApiSettings", "AsyncApi"]
