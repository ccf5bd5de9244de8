"""`stepweave template`: check, register and look at templates."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CommandError, ExitCode
from .options import TIMEOUT_SECONDS, NatsUrl, Output, TimeoutSeconds
from .output import OutputFormat, moment, print_fields, print_table, progress, say, show, stdout
from .running import ask, client, run_async

if TYPE_CHECKING:
    from stepweave.responses import TemplateResponse
    from stepweave_schemas.template import Problem, TaskTemplate

app = typer.Typer(name="template", help="Check, register and look at templates.", no_args_is_help=True)

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE…", help="Template files, or folders with *.yaml files.", exists=True),
]


class GraphFormat(StrEnum):
    """The values of `template graph --format`."""

    DRAWING = "drawing"
    MERMAID = "mermaid"


@app.command()
def validate(
    files: Files,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment", "-e", help="As the templates run there, overrides applied.", metavar="NAME"
        ),
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Find every problem of templates; needs no server.

    Also names what this version would refuse to register.
    Prints `file:line: CODE path message` for each; warnings do not make it fail.
    """
    found = [problem for path in template_files(files) for problem in _problems(path, environment)]
    errors = [problem for problem in found if problem.severity == "error"]

    def lines() -> None:
        for problem in found:
            mark = "warning: " if problem.severity == "warning" else ""
            where = problem.source if problem.line is None else f"{problem.source}:{problem.line}"
            path = f" {problem.path}" if problem.path else ""
            hint = f"; {problem.hint}" if problem.hint else ""
            say(f"{where}: {mark}{problem.code}{path} {problem.message}{hint}")

    show(found, output, lines)
    if errors:
        raise CommandError(f"{len(errors)} error(s): correct them and try again", ExitCode.FAILED)
    progress(f"valid; {len(found)} warning(s)" if found else "valid")


def _problems(path: Path, environment: str | None) -> tuple[Problem, ...]:
    """What is wrong with a template file, and what registration would refuse."""
    from stepweave_orchestrator.runtime.template_bounds import out_of_bounds
    from stepweave_schemas.template import check_template

    source = str(path)
    template, problems = check_template(read(path), source, environment)
    if template is None:
        return tuple(problems)
    return (*problems, *out_of_bounds(template, source))


@app.command()
def register(
    files: Files,
    registered_by: Annotated[str, typer.Option("--by", help="Who registers them.", metavar="WHO")] = "",
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Make template versions known; the same content again changes nothing.

    A registered version never changes: other content needs another version.
    """
    paths = template_files(files)

    async def work() -> list[TemplateResponse]:
        async with client(nats_url, timeout_seconds) as api:
            return [await api.register_template(path, registered_by=registered_by) for path in paths]

    done = run_async(work())
    for one in done:
        for warning in one.warnings:
            progress(f"warning: {warning['code']} {warning['path']}: {warning['message']}")
    show(
        done,
        output,
        lambda: print_table(
            ("template", "state", "hash"),
            ((reference(one), "registered" if one.created else "unchanged", one.hash[:19]) for one in done),
            empty="nothing to register",
        ),
    )


@app.command("list")
def list_(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this namespace.", metavar="NAMESPACE")
    ] = None,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the registered template versions."""

    found = ask(lambda api: api.list_templates(namespace=namespace), nats_url, timeout_seconds)
    show(
        found,
        output,
        lambda: print_table(
            ("template", ">steps", "registered", "by", "description"),
            (
                (
                    f"{one.namespace}/{one.name}:{one.version}",
                    one.total_steps,
                    moment(one.registered_at),
                    one.registered_by,
                    one.description,
                )
                for one in found
            ),
            empty="no template is registered; `stepweave template register FILE` registers one",
        ),
    )


@app.command("show")
def show_(
    name: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME[:VERSION]", help="A registered template.")],
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show a registered template; -o yaml and -o json print its canonical form."""
    found = run_async(_registered(name, nats_url, timeout_seconds))
    if output is not OutputFormat.TABLE:
        show(found.content, output, lambda: None)
        return
    template = _loaded(found)
    print_fields(
        (
            ("template", reference(found)),
            ("description", template.description),
            ("hash", found.hash),
            ("environment", found.environment),
            ("versions", found.versions),
        )
    )
    say()
    print_table(
        ("step", "handler", "after", ">tries", "backoff", "time-out"),
        (
            (
                step.name,
                step.handler.callable,
                step.dependencies,
                step.retry.max_attempts,
                step.retry.backoff,
                f"{step.timeout_seconds:g} s" if step.timeout_seconds else None,
            )
            for step in template.steps
        ),
        empty="no steps",
    )


@app.command()
def graph(
    what: Annotated[
        str,
        typer.Argument(metavar="FILE|NAMESPACE/NAME[:VERSION]", help="A file, or a registered template."),
    ],
    form: Annotated[
        GraphFormat,
        typer.Option("--format", "-f", help="A drawing, or Mermaid text.", metavar="drawing|mermaid"),
    ] = GraphFormat.DRAWING,
    nats_url: NatsUrl = None,
    timeout_seconds: TimeoutSeconds = TIMEOUT_SECONDS,
) -> None:
    """Draw a template's steps, in the terminal or as Mermaid text."""
    from stepweave_schemas.template import drawing, mermaid

    path = Path(what)
    template = (
        load(path)
        if path.is_file() or path.suffix in (".yaml", ".yml", ".json")
        else _loaded(run_async(_registered(what, nats_url, timeout_seconds)))
    )
    if form is GraphFormat.MERMAID:
        text = mermaid(template)
    else:
        text = drawing(template, width_max=max(40, stdout().width))
    say(text.rstrip("\n"))


async def _registered(name: str, nats_url: str | None, timeout_seconds: float) -> TemplateResponse:
    namespace, template, version = parse_reference(name)
    async with client(nats_url, timeout_seconds) as api:
        return await api.get_template(template, namespace=namespace, version=version)


def _loaded(found: TemplateResponse) -> TaskTemplate:
    import msgspec

    from stepweave_schemas.template import load_template

    return load_template(msgspec.json.encode(found.content), source=reference(found)).template


def parse_reference(text: str) -> tuple[str, str, str | None]:
    """Namespace, name and version of `NAMESPACE/NAME:VERSION`; the namespace is `default` where it is left out."""
    path, _, version = text.partition(":")
    namespace, slash, name = path.rpartition("/")
    if not name or "/" in namespace or (slash and not namespace) or (":" in text and not version):
        raise CommandError(
            f"{text!r} names no template: write NAMESPACE/NAME or NAMESPACE/NAME:VERSION", ExitCode.USAGE
        )
    return namespace or "default", name, version or None


def reference(template: TemplateResponse) -> str:
    """`namespace/name:version`."""
    return f"{template.namespace}/{template.name}:{template.version}"


def template_files(paths: list[Path]) -> list[Path]:
    """The template files among files and folders: of a folder, the *.yaml and *.yml files anywhere below it.

    Not those of schedules: `schedule.yaml`, `daily_schedule.yaml`.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        below = sorted(
            file
            for file in path.rglob("*.y*ml")
            if file.suffix in (".yaml", ".yml")
            and file.is_file()
            and not file.stem.endswith("schedule")
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not below:
            raise CommandError(f"there is no *.yaml file in {path}: name a template file", ExitCode.NOT_FOUND)
        found.update(dict.fromkeys(below))
    return list(found)


def read(path: Path) -> bytes:
    """A template file's bytes; raises `CommandError` where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}: check the path", ExitCode.NOT_FOUND) from None
    except OSError as error:
        raise CommandError(f"{path} cannot be read ({error.strerror}): check its rights") from None


def load(path: Path) -> TaskTemplate:
    """A template from a file; raises `CommandError` with every problem."""
    from stepweave_schemas.template import check_template

    template, problems = check_template(read(path), str(path))
    if template is None:
        errors = "\n".join(f"  {problem}" for problem in problems if problem.severity == "error")
        raise CommandError(f"the template cannot be used:\n{errors}", ExitCode.FAILED)
    return template
