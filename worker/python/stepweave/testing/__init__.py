"""Tests of handlers and workflows without a server."""

from .single import make_context, make_dispatch, run_handler, run_handler_async
from .waiting import eventually

__all__ = ["eventually", "make_context", "make_dispatch", "run_handler", "run_handler_async"]
