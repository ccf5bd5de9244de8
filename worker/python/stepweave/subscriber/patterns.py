"""Which events a subscriber wants: patterns, and the feed that carries them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

from stepweave.errors import ConfigurationError
from stepweave_schemas.catalogue import CATALOGUE, OUTCOME_TYPES
from stepweave_schemas.envelope import Envelope
from stepweave_schemas.events import DomainPublished
from stepweave_schemas.subjects import (
    DOMAIN_PREFIX,
    EVENT_NAME_PATTERN,
    EVT_STREAM,
    EVT_STREAM_SUBJECTS,
    LOG_STREAM,
    LOG_STREAM_SUBJECTS,
    domain_event,
    token,
)

Feed = Literal["signal", "log"]

_PATTERN: Final = re.compile(r"[a-z_.*?\[\]]+|domain\.[A-Za-z0-9_.*?\[\]-]+")
_GLOB: Final = re.compile(r"[*?\[]")
_TYPES: Final = tuple(CATALOGUE)
_DOMAIN_SUBJECTS: Final = domain_event(">")


#: Every domain event.
_ALL_DOMAIN_EVENTS: Final = frozenset({DomainPublished.TYPE, domain_event("*")})
_NAME: Final = re.compile(EVENT_NAME_PATTERN)


class _Named(msgspec.Struct):
    name: str


_decode_name = msgspec.json.Decoder(_Named).decode


def address_of(envelope: Envelope) -> str:
    """What patterns are matched with: an event's type, or `domain.<name>` of a domain event."""
    if envelope.type != DomainPublished.TYPE:
        return envelope.type
    return domain_event(_decode_name(envelope.data).name)


class Pattern:
    """An event type (`step.failed`), a glob over types (`task.*`, `*`), or domain events by name.

    `domain.order.paid` is one of these, `domain.order.*` all whose names begin so, `domain.*` and `domain.published`
    all of them.
    """

    __slots__ = ("is_glob", "of_domain", "text", "types")

    def __init__(self, text: str) -> None:
        """Raises `ConfigurationError` for what matches no event type, naming the nearest one."""
        self.text = text
        self.is_glob = bool(_GLOB.search(text)) if isinstance(text, str) else False
        if not isinstance(text, str) or not _PATTERN.fullmatch(text):
            raise ConfigurationError(
                f"{text!r} is no event type or pattern such as 'step.failed' or 'task.*'"
            )
        #: Whether it asks for domain events by their names.
        self.of_domain = text.startswith(DOMAIN_PREFIX) and text not in _ALL_DOMAIN_EVENTS
        if self.of_domain:
            if not self.is_glob and not _NAME.fullmatch(text.removeprefix(DOMAIN_PREFIX)):
                raise ConfigurationError(f"{text!r} is no name of a domain event such as 'domain.order.paid'")
            self.types = frozenset({DomainPublished.TYPE})
            return
        #: The known types that it matches.
        self.types = frozenset(known for known in _TYPES if fnmatchcase(known, text))
        if not self.types:
            near = difflib.get_close_matches(text, _TYPES, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(_TYPES))}"
            raise ConfigurationError(f"no event type matches {text!r}{hint}")

    def matches(self, address: str) -> bool:
        """Whether an event with this address is wanted; globs take types that this version does not know too."""
        if self.of_domain:
            return address == self.text or (self.is_glob and fnmatchcase(address, self.text))
        if address.startswith(DOMAIN_PREFIX):
            return DomainPublished.TYPE in self.types
        return address in self.types or (self.is_glob and fnmatchcase(address, self.text))

    def subject_endings(self) -> set[str]:
        """How the subjects of the signal feed end that carry what it matches."""
        if self.of_domain and not self.is_glob:
            return {self.text}
        return {_DOMAIN_SUBJECTS if one == DomainPublished.TYPE else one for one in self.types}


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
        types.setdefault(where, set()).update(pattern.subject_endings())
    for found in types.values():
        if _DOMAIN_SUBJECTS in found:
            # It covers those that are named.
            found -= {one for one in found if one.startswith(DOMAIN_PREFIX) and one != _DOMAIN_SUBJECTS}
    prefix = EVT_STREAM_SUBJECTS[0].removesuffix(".>")
    return sorted(f"{prefix}.{where}.*.*.{one}" for where, found in types.items() for one in found)
