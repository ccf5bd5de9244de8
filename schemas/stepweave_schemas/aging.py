"""In which order work goes that has waited for different times under different priorities.

A point of priority counts as so much waiting. So the order of two who wait never changes with time, nothing has to be
looked at again, and nothing starves: what has waited for longer than all priorities are worth goes first.
"""

from __future__ import annotations

from typing import Final

#: What a point of priority is worth: so much waiting, in ms. From −100 to 100 that is 33 minutes.
AGING_MS: Final = 10_000


def rank_ms(since_ms: int, priority: int) -> int:
    """The moment that counts for what waits since `since_ms` (ms since the Unix epoch): the smaller one goes first."""
    return since_ms - priority * AGING_MS
