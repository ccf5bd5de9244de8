"""The tests of the pure core: no servers, no clock, no event loop."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.unit.core.invariants", "tests.unit.core.scenario", "tests.unit.core.world"
)
