"""The examples that `stepweave demo` runs: folders with `template.yaml`, `handlers.py` and `inputs/*.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from stepweave_schemas.template import TaskTemplate

from .errors import CommandError, ExitCode
from .template import load


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of `inputs/`: what a run is given, and how it should end."""

    context: dict[str, Any]
    description: str = ""
    expect: Literal["complete", "blocked_by_failures", "error", "cancelled"] = "complete"
    #: The step that should have failed for good.
    expect_failed_step: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an example."""

    example: str
    name: str
    template: TaskTemplate
    input: Input

    @property
    def title(self) -> str:
        """`example/input`."""
        return f"{self.example}/{self.name}"


@dataclass(frozen=True, slots=True)
class Example:
    """One example and its runs."""

    folder: Path
    template: TaskTemplate
    runs: tuple[Run, ...]

    @property
    def template_file(self) -> Path:
        """The template."""
        return self.folder / "template.yaml"

    @property
    def handlers_file(self) -> Path:
        """The module with its handlers."""
        return self.folder / "handlers.py"


def find_examples(folder: Path) -> list[Example]:
    """Every example below a folder, by name; raises `CommandError` where there is none, or one is wrong."""
    found = [
        _example(each)
        for each in sorted(folder.iterdir())
        if (each / "template.yaml").is_file()
        and (each / "handlers.py").is_file()
        and (each / "inputs").is_dir()
    ]
    if not any(example.runs for example in found):
        raise CommandError(
            f"there is no example in {folder}: one is a folder with template.yaml, handlers.py and inputs/*.json",
            ExitCode.NOT_FOUND,
        )
    return found


def _example(folder: Path) -> Example:
    template = load(folder / "template.yaml")
    inputs = sorted((folder / "inputs").glob("*.json"))
    return Example(
        folder,
        template,
        tuple(Run(folder.name, path.stem, template, _input(path, template)) for path in inputs),
    )


def _input(path: Path, template: TaskTemplate) -> Input:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Input)
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(
            f"{path}: {error}; an input has context, description, expect and expect_failed_step"
        ) from None
    step = found.expect_failed_step
    if step is not None and step not in {each.name for each in template.steps}:
        raise CommandError(f"{path}: expect_failed_step: {template.reference} has no step {step!r}")
    return found
