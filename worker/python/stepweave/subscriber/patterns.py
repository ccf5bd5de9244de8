"""Which events a subscriber wants: patterns, and the feed that carries them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

from stepweave.errors import ConfigurationError
from stepweave_schemas.catalogue import CATALOGUE, OUTCOME_TYPES
from stepweave_schemas.subjects import EVT_STREAM, EVT_STREAM_SUBJECTS, LOG_STREAM, LOG_STREAM_SUBJECTS, token

Feed = Literal["signal", "log"]

_PATTERN: Final = re.compile(r"[a-z_.*?\[\]]+")
_GLOB: Final = re.compile(r"[*?\[]")
_TYPES: Final = tuple(CATALOGUE)


class Pattern:
    """An event type (`step.failed`) or a glob over types (`task.*`, `*`)."""

    __slots__ = ("is_glob", "text", "types")

    def __init__(self, text: str) -> None:
        """Raises `ConfigurationError` for what matches no event type, naming the nearest one."""
        self.text = text
        self.is_glob = bool(_GLOB.search(text)) if isinstance(text, str) else False
        if not isinstance(text, str) or not _PATTERN.fullmatch(text):
            raise ConfigurationError(
                f"{text!r} is no event type or pattern such as 'step.failed' or 'task.*'"
            )
        #: The known types that it matches.
        self.types = frozenset(known for known in _TYPES if fnmatchcase(known, text))
        if not self.types:
            near = difflib.get_close_matches(text, _TYPES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(_TYPES))}"
            raise ConfigurationError(f"no event type matches {text!r}{hint}")

    def matches(self, event_type: str) -> bool:
        """Whether an event of this type is wanted; globs take types that this version does not know too."""
        return event_type in self.types or (self.is_glob and fnmatchcase(event_type, self.text))


def choose_feed(patterns: Iterable[Pattern]) -> Feed:
    """`signal` where it carries every wanted type by default, else `log`, which carries everything."""
    types = {one for pattern in patterns for one in pattern.types}
    return "signal" if types <= OUTCOME_TYPES else "log"


def stream_of(feed: Feed) -> str:
    """The JetStream stream of a feed."""
    return EVT_STREAM if feed == "signal" else LOG_STREAM


def filter_subjects(feed: Feed, wanted: Iterable[tuple[Pattern, str | None]]) -> list[str]:
    """What to read of a feed; a consumer's filters must not overlap, so some are widened."""
    if feed == "log":
        return list(LOG_STREAM_SUBJECTS)
    wanted = list(wanted)
    everywhere = any(namespace is None for _, namespace in wanted)
    types: dict[str, set[str]] = {}
    for pattern, namespace in wanted:
        where = "*" if everywhere or namespace is None else token(namespace)
        types.setdefault(where, set()).update(pattern.types)
    prefix = EVT_STREAM_SUBJECTS[0].removesuffix(".>")
    return sorted(f"{prefix}.{where}.*.*.{one}" for where, found in types.items() for one in found)
