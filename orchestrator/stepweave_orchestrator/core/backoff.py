"""The delay before the next try (semantics §5)."""

from __future__ import annotations

from .plan import StepSpec

#: A handler may not ask for a longer `retry_after` unless its template says so.
DEFAULT_RETRY_AFTER_MS_MAX = 3_600_000

#: The number of tries beyond which the smallest base is past the largest cap (30 days) whatever the formula, the
#: Fibonacci numbers being the slowest; keeps the numbers small.
_EXPONENT_MAX = 64


def fibonacci(n: int) -> int:
    """The n-th Fibonacci number from 1: 1, 1, 2, 3, 5 …"""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def backoff_delay_ms(spec: StepSpec, attempts_made: int, entropy: str) -> int:
    """Milliseconds before try `attempts_made + 1`, by the step's formula, cap and jitter.

    `entropy` is hexadecimal text of at least eight digits; it decides where in the jitter's range the delay
    lies. The jitter is applied after the cap and never takes the delay below 0.
    """
    retry = spec.retry
    n = min(attempts_made, _EXPONENT_MAX)
    base = retry.backoff_base_ms
    match retry.backoff:
        case "none":
            return 0
        case "fixed":
            delay = base
        case "linear":
            delay = base * attempts_made
        case "fibonacci":
            delay = base * fibonacci(n)
        case _:
            delay = base * 2 ** (n - 1)
    delay = min(delay, retry.max_backoff_ms)
    if retry.jitter:
        position = int(entropy[:8], 16) / 0xFFFFFFFF * 2 - 1
        delay = round(delay * (1 + retry.jitter * position))
    return max(delay, 0)
