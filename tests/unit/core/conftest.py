"""The tests of the pure core: no servers, no clock, no event loop."""

from __future__ import annotations
