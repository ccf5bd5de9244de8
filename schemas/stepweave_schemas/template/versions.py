"""Template versions: semantic versioning 2.0.0, and the short forms that people write."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

#: Longest version, in characters.
VERSION_CHARS_MAX: Final = 255

#: Semantic versioning 2.0.0.
VERSION_PATTERN: Final = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?$"
)
_VERSION = re.compile(VERSION_PATTERN.removeprefix("^").removesuffix("$"))
_SHORT = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))?")


@functools.total_ordering
@dataclass(frozen=True)
class Version:
    """A semantic version; ordered by precedence, in which build metadata has no part."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[int | str, ...] = ()
    build: str | None = None

    @property
    def precedence(self) -> tuple[object, ...]:
        """The sort key of semantic versioning §11."""
        identifiers = tuple(
            (0, part, "") if isinstance(part, int) else (1, 0, part) for part in self.prerelease
        )
        return (self.major, self.minor, self.patch, not self.prerelease, identifiers)

    def __lt__(self, other: Version) -> bool:
        return self.precedence < other.precedence

    def __str__(self) -> str:
        core = f"{self.major}.{self.minor}.{self.patch}"
        prerelease = "-" + ".".join(map(str, self.prerelease)) if self.prerelease else ""
        return core + prerelease + (f"+{self.build}" if self.build else "")


def parse_version(text: str) -> Version:
    """Read a full semantic version, such as `1.2.0-rc.1`; raises `ValueError` for anything else."""
    match = _VERSION.fullmatch(text) if len(text) <= VERSION_CHARS_MAX else None
    if match is None:
        raise ValueError(f"{text[:80]!r} is no semantic version such as 1.2.0")
    major, minor, patch, prerelease, build = match.groups()
    identifiers = tuple(
        int(part) if part.isdigit() else part for part in (prerelease.split(".") if prerelease else ())
    )
    return Version(int(major), int(minor), int(patch), identifiers, build)


def full_version(text: str) -> str:
    """`1` and `1.10` padded to `1.0.0` and `1.10.0`; other text comes back as it is."""
    if _SHORT.fullmatch(text):
        return text + ".0" * (2 - text.count("."))
    return text


def highest_version(versions: Iterable[str]) -> str | None:
    """The highest version that is no prerelease, else the highest prerelease; `None` where there is none.

    Raises `ValueError` where a text is no semantic version.
    """
    parsed = [(parse_version(text), text) for text in versions]
    candidates = [pair for pair in parsed if not pair[0].prerelease] or parsed
    if not candidates:
        return None
    return max(candidates, key=lambda pair: (pair[0].precedence, pair[1]))[1]
