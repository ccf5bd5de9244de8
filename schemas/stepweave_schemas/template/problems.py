"""What is wrong with a template: problems with a code, a path, a line and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning"]

#: Every code of a problem, and what it says.
PROBLEM_CODES: Final[dict[str, str]] = {
    "BAD_YAML": "the text cannot be read as YAML or JSON",
    "UNKNOWN_KEY": "a key that no template has",
    "IGNORED_KEY": "a key of another dialect, or one that does nothing where it stands (a warning)",
    "BAD_VALUE": "a value of the wrong type, out of its range, missing or contradictory",
    "SCHEMA_INVALID": "a JSON Schema that is none",
    "DUPLICATE_STEP_NAME": "two steps with one name, or one that is called like a batch of another",
    "SELF_DEPENDENCY": "a step that depends on itself",
    "MISSING_DEP_REF": "a step is named that does not exist, or that does not come before",
    "CYCLE_DETECTED": "steps that wait for each other",
    "EMPTY_CALLABLE": "a step without a handler, or a compensation whose handler has no name",
    "ORPHAN_STEP": "a step without any edge in a template of several steps (a warning)",
    "DECISION_TARGET_INVALID": "a decision without branches; as a warning, a convergence without a decision, or a "
    "step that runs only where several branches are taken",
    "BATCH_WORKER_MISSING": "a batchable step without its worker step",
    "COMPENSATION_INVALID": "a compensation that cannot run",
    "UNKNOWN_ENVIRONMENT": "overrides for environments of which the one asked for is none (a warning)",
    "MORE_PROBLEMS": "the list was cut",
}

#: Most errors, and most warnings, that one check lists.
PROBLEMS_MAX: Final = 1_000
#: Longest excerpt of a user's text inside a message, in characters.
EXCERPT_CHARS_MAX: Final = 80


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or (a warning) that is probably not meant."""

    code: str
    message: str
    #: Where, as in `steps[2].retry.max_attempts`; empty for the whole document.
    path: str
    #: From 1; `None` where no line can be named.
    line: int | None
    severity: Severity
    #: What to do about it.
    hint: str | None
    #: The file's name, or what the caller called the text.
    source: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        subject = " ".join(part for part in (self.code, self.path) if part)
        text = f"{where}: {subject}: {self.message}"
        return f"{text}; {self.hint}" if self.hint else text


class TemplateError(Exception):
    """A template that cannot be used; `problems` holds every problem, warnings too."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ProblemList:
    """Collects the problems of one text, with a bound on their number."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._listed: dict[Severity, list[Problem]] = {"error": [], "warning": []}
        self._cut: dict[Severity, int] = {"error": 0, "warning": 0}
        self._known: set[tuple[str, str, int | None]] = set()

    def add(
        self,
        code: str,
        message: str,
        *,
        path: str = "",
        line: int | None = None,
        severity: Severity = "error",
        hint: str | Callable[[], str | None] | None = None,
    ) -> None:
        """Note a problem, unless the same code stands at the same place already.

        A hint that takes a search is given as a function: it is called only for problems that are listed.
        """
        listed = self._listed[severity]
        if len(listed) >= PROBLEMS_MAX:
            self._cut[severity] += 1
            return
        key = (code, path, line)
        if key not in self._known:
            self._known.add(key)
            text = hint() if callable(hint) else hint
            listed.append(Problem(code, message, path, line, severity, text, self.source))

    @property
    def has_errors(self) -> bool:
        """Whether anything more than warnings was noted."""
        return bool(self._listed["error"])

    def in_order(self) -> tuple[Problem, ...]:
        """All problems by line; what has no line comes last."""
        found = [problem for listed in self._listed.values() for problem in listed]
        found.sort(key=lambda problem: (problem.line is None, problem.line or 0, problem.severity))
        found += [
            Problem(
                "MORE_PROBLEMS",
                f"{cut:,} more {severity}s are not listed",
                "",
                None,
                severity,
                None,
                self.source,
            )
            for severity, cut in self._cut.items()
            if cut
        ]
        return tuple(found)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, if any does."""
    matches = difflib.get_close_matches(word[:255], list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known word, if one looks alike."""
    match = nearest(word, known)
    return f"did you mean {match!r}?" if match else None


def excerpt(value: object) -> str:
    """A value as it may stand in a message: quoted, on one line, not too long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= EXCERPT_CHARS_MAX else text[: EXCERPT_CHARS_MAX - 1] + "…"
