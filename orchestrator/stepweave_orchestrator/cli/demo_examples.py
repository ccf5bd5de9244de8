"""The examples that `stepweave demo` runs.

Each is a folder with `handlers.py`, `inputs/*.json`, and its templates: `template.yaml`, or several in
`templates/*.yaml`, of which each input names one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from stepweave_schemas.template import StepTemplate, TaskTemplate, highest_version

from .errors import CommandError, ExitCode
from .template import load, parse_reference


class SignalToSend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signal that the demonstration sends, as nobody types there."""

    name: str
    payload: Any = None
    #: Sent as soon as the task exists; else when a step waits for it.
    early: bool = False


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of `inputs/`: what a run is given, and how it should end."""

    context: dict[str, Any]
    description: str = ""
    #: `namespace/name` or `namespace/name:version`; needed where the example has several templates.
    template: str | None = None
    #: In the order in which they are sent.
    signals: tuple[SignalToSend, ...] = ()
    expect: Literal["complete", "blocked_by_failures", "error", "cancelled"] = "complete"
    #: The step that should have failed for good; also one batch, as `worker_002`.
    expect_failed_step: str | None = None
    #: Whether everything should have been undone; absent: nothing should.
    expect_compensation: Literal["complete", "partial"] | None = None


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
    #: By their files.
    templates: dict[Path, TaskTemplate]
    runs: tuple[Run, ...]

    @property
    def handlers_file(self) -> Path:
        """The module with its handlers."""
        return self.folder / "handlers.py"


def find_examples(folder: Path) -> list[Example]:
    """Every example below a folder, by name; raises `CommandError` where there is none, or one is wrong."""
    found = [
        _example(each)
        for each in sorted(folder.iterdir())
        if _template_files(each) and (each / "handlers.py").is_file() and (each / "inputs").is_dir()
    ]
    if not any(example.runs for example in found):
        raise CommandError(
            f"there is no example in {folder}: one is a folder with template.yaml (or templates/*.yaml), "
            "handlers.py and inputs/*.json",
            ExitCode.NOT_FOUND,
        )
    return found


def load_templates(folder: Path) -> dict[Path, TaskTemplate]:
    """The templates of an example, by their files."""
    return {path: load(path) for path in _template_files(folder)}


def named_template(templates: dict[Path, TaskTemplate], reference: str) -> TaskTemplate:
    """The template that `namespace/name` (its highest version) or `namespace/name:version` means.

    Raises `CommandError` where there is none.
    """
    namespace, name, version = parse_reference(reference)
    versions = {
        one.version: one for one in templates.values() if (one.namespace, one.name) == (namespace, name)
    }
    wanted = version if version is not None else highest_version(versions)
    if wanted is None or wanted not in versions:
        listed = ", ".join(one.reference for one in templates.values())
        raise CommandError(f"the example has no template {reference!r}, it has {listed}")
    return versions[wanted]


def _template_files(folder: Path) -> list[Path]:
    only = folder / "template.yaml"
    return [only] if only.is_file() else sorted((folder / "templates").glob("*.yaml"))


def _example(folder: Path) -> Example:
    templates = load_templates(folder)
    inputs = sorted((folder / "inputs").glob("*.json"))
    return Example(folder, templates, tuple(_run(folder.name, path, templates) for path in inputs))


def _run(example: str, path: Path, templates: dict[Path, TaskTemplate]) -> Run:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Input)
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(
            f"{path}: {error}; an input has {', '.join(Input.__struct_fields__[:-1])} "
            f"and {Input.__struct_fields__[-1]}"
        ) from None
    if found.template is None and len(templates) > 1:
        raise CommandError(f"{path}: template: say which, the example has {len(templates)} templates")
    try:
        template = (
            next(iter(templates.values()))
            if found.template is None
            else named_template(templates, found.template)
        )
    except CommandError as error:
        raise CommandError(f"{path}: template: {error}") from None
    step = found.expect_failed_step
    if step is not None and not any(_may_be(each, step) for each in template.steps):
        raise CommandError(f"{path}: expect_failed_step: {template.reference} has no step {step!r}")
    signals = {each.wait_for_signal.name for each in template.steps if each.wait_for_signal is not None}
    for number, signal in enumerate(found.signals):
        if signal.name not in signals:
            raise CommandError(
                f"{path}: signals[{number}].name: no step of {template.reference} waits for {signal.name!r}"
            )
    return Run(example, path.stem, template, found)


def _may_be(step: StepTemplate, name: str) -> bool:
    """Whether a task may have a step of this name: the template's, or one of a batch worker's."""
    if name == step.name:
        return True
    return step.type == "batch_worker" and re.fullmatch(re.escape(step.name) + "_[0-9]{3,}", name) is not None
