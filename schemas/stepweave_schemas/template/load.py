"""Text to template: read, check everything, and say all that is wrong at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from .findings import note_model_errors
from .model import TaskTemplate
from .problems import Problem, ProblemList, TemplateError, did_you_mean, excerpt
from .reading import Reading
from .rules import complete_handlers, note_broken_rules
from .schema_check import note_bad_schemas, note_unfit_defaults
from .yaml_lines import TEMPLATE_BYTES_MAX, parse

#: Files that a folder of templates is made of.
TEMPLATE_SUFFIXES: Final = (".yaml", ".yml", ".json")
#: Most template files of one folder.
TEMPLATE_FILES_MAX: Final = 10_000


@dataclass(frozen=True)
class LoadedTemplate:
    """A template that can be used, and what is still worth saying about its text."""

    template: TaskTemplate
    warnings: tuple[Problem, ...]


def check_template(
    text: str | bytes, source: str = "<string>", environment: str | None = None
) -> tuple[TaskTemplate | None, tuple[Problem, ...]]:
    """Read a template and find every problem; never raises, whatever the text.

    `text` is YAML or JSON in any of the dialects. With `environment`, the template comes back as it runs there.
    The template is `None` where any problem is an error; warnings alone do not stop it. Problems are in the order
    of their lines.
    """
    problems = ProblemList(source)
    template = _check(text, problems, environment)
    return template, problems.in_order()


def load_template(
    text: str | bytes, *, source: str = "<string>", environment: str | None = None
) -> LoadedTemplate:
    """Read a template; raises `TemplateError` with every problem.

    `source` names the text in messages. With `environment`, its overrides are applied.
    """
    template, problems = check_template(text, source, environment)
    if template is None:
        raise TemplateError(problems)
    return LoadedTemplate(template, problems)


def load_template_file(path: Path, *, environment: str | None = None) -> LoadedTemplate:
    """Read a template from a file; raises `TemplateError`, or `OSError` where the file cannot be read."""
    return load_template(_read(path), source=str(path), environment=environment)


def load_templates_dir(path: Path, *, environment: str | None = None) -> list[LoadedTemplate]:
    """Read every template below a folder, in the order of their paths.

    Files whose names end in one of `TEMPLATE_SUFFIXES` are templates; names that begin with a dot are passed
    over. Two files with the same template version are an error unless they say the same. Raises `TemplateError`
    with the problems of all files, or `OSError` where the folder or a file cannot be read.
    """
    loaded: list[LoadedTemplate] = []
    problems: list[Problem] = []
    seen: dict[str, tuple[Path, str]] = {}
    for file in _template_files(path):
        template, found = check_template(_read(file), str(file), environment)
        if template is None:
            problems += found
            continue
        content_hash = template.content_hash()
        first, first_hash = seen.setdefault(template.reference, (file, content_hash))
        if first_hash != content_hash:
            message = f"{template.reference} is also in {first}, with other content"
            hint = "give one of them another version"
            problems.append(Problem("BAD_VALUE", message, "version", None, "error", hint, str(file)))
        elif first == file:
            loaded.append(LoadedTemplate(template, found))
    if problems:
        raise TemplateError(problems)
    return loaded


def _check(text: str | bytes, problems: ProblemList, environment: str | None) -> TaskTemplate | None:
    root = parse(text, problems)
    if root is None:
        return None
    reading = Reading(root, problems)
    if reading.data is None:
        return None
    complete_handlers(reading.data)
    template = _model(reading.data, reading)
    note_broken_rules(reading)
    note_bad_schemas(reading.schemas, problems)
    note_unfit_defaults(reading)
    if template is None or problems.has_errors:
        return None
    if environment is not None:
        _note_unknown_environment(template, environment, reading)
        template = template.for_environment(environment)
    canonical_bytes = len(template.canonical_json())
    if canonical_bytes > TEMPLATE_BYTES_MAX:
        problems.add(
            "BAD_VALUE",
            f"{canonical_bytes} bytes long in its canonical form; a template has at most {TEMPLATE_BYTES_MAX}",
            hint="split it into several templates",
        )
        return None
    return template


def _note_unknown_environment(template: TaskTemplate, environment: str, reading: Reading) -> None:
    """Warn where a template names environments and this one is none of them: perhaps it is misspelled."""
    known = list(template.environments)
    if known and environment not in known:
        place = reading.place(("environments",))
        reading.problems.add(
            "UNKNOWN_ENVIRONMENT",
            f"{excerpt(environment)} is none of them, so nothing is changed: there are {', '.join(known[:20])}",
            path=place.path,
            line=place.line,
            severity="warning",
            hint=did_you_mean(environment, known) or "add it, with `{}` where nothing is to change",
        )


def _model(data: dict[str, Any], reading: Reading) -> TaskTemplate | None:
    try:
        return TaskTemplate.model_validate(data)
    except ValidationError as error:
        note_model_errors(error, reading)
        return None


def _read(path: Path) -> bytes:
    """The file's bytes; of a file that is too long, just enough to see that."""
    with path.open("rb") as file:
        return file.read(TEMPLATE_BYTES_MAX + 1)


def _template_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    files = [
        file
        for file in folder.rglob("*")
        if file.suffix in TEMPLATE_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if len(files) > TEMPLATE_FILES_MAX:
        raise TemplateError(
            [
                Problem(
                    "BAD_VALUE",
                    f"{len(files)} template files; a folder has at most {TEMPLATE_FILES_MAX}",
                    "",
                    None,
                    "error",
                    None,
                    str(folder),
                )
            ]
        )
    return sorted(files)
