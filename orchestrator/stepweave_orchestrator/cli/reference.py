"""The page `docs/reference/cli.md`, generated from the commands: `python -m stepweave_orchestrator.cli.reference`.

With `--check` it writes nothing and fails where the page is not what the commands say.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .help_examples import EXAMPLES

PAGE: Final = Path("docs/reference/cli.md")

_INTRODUCTION = """\
# Command line

Generated from the commands by `python -m stepweave_orchestrator.cli.reference`; do not edit.

Data goes to stdout, progress and errors to stderr. `-o json` and `-o yaml` are for programs. Where neither
`NATS_URL` nor `DATABASE_URL` is given, commands use the `stepweave dev` that runs in the same folder.
`STEPWEAVE_DEBUG=1` shows where an error comes from; `NO_COLOR` is respected.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | failed: what was asked for was done and came out badly |
| 2 | usage: the command was not given what it needs |
| 3 | not found |
| 4 | refused: a conflict, an input that does not validate |
| 5 | unavailable: a server or a part of the installation is missing |
"""


def render() -> str:
    """The whole page."""
    from .app import PROGRAM, command

    commands = list(_leaves(command(), PROGRAM))
    lines = [_INTRODUCTION, "| command | |", "|---|---|"]
    for path, one in commands:
        lines.append(f"| [`{path}`](#{path.replace(' ', '-')}) | {_summary(one)} |")
    for path, one in commands:
        lines += ["", *_section(path, one)]
    return "\n".join(lines) + "\n"


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The commands below a command or group, with what is typed for them."""
    below = getattr(node, "commands", None)
    if below is None:
        yield path, node
        return
    for name, one in below.items():
        if not one.hidden:
            yield from _leaves(one, f"{path} {name}")


def _help(one: Any) -> str:
    paragraphs = inspect.cleandoc(one.help or "").split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(each.split()), 110) for each in paragraphs)


def _summary(one: Any) -> str:
    return " ".join(_help(one).partition("\n\n")[0].split())


def _section(path: str, one: Any) -> Iterator[str]:
    shown = [param for param in one.params if not getattr(param, "hidden", False) and param.name != "help"]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option"]
    usage = " ".join([path, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])])
    yield f"## {path}"
    yield ""
    yield f"    {usage}"
    yield ""
    yield _help(one)
    examples = EXAMPLES.get(path.partition(" ")[2])
    if examples:
        yield from ("", "```sh", *examples, "```")
    if arguments or options:
        yield ""
        yield "| | |"
        yield "|---|---|"
    for each in arguments:
        yield f"| `{_cell(_argument(each))}` | {_cell(each.help or '')} |"
    for each in options:
        yield f"| {_flags(each)} | {_cell(_about(each))} |"


def _argument(param: Any) -> str:
    name = str(param.metavar or param.name.upper())
    return name if param.required or name.startswith("[") else f"[{name}]"


def _flags(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    return names if param.is_flag else f"{names} {_cell(str(param.metavar))}"


def _about(param: Any) -> str:
    parts = [param.help or ""]
    default = param.default
    if (
        default is not None
        and not param.is_flag
        and default != ()
        and default != []
        and not callable(default)
    ):
        parts.append(f"Default: {getattr(default, 'value', default)}.")
    variables = [param.envvar] if isinstance(param.envvar, str) else list(param.envvar or ())
    if variables:
        parts.append(f"Variable: {', '.join(variables)}.")
    return " ".join(part for part in parts if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Exit code 0: written, or nothing differs; 1: the page differs; 2: not in the repository."""
    if not PAGE.parent.is_dir():
        print(f"there is no {PAGE.parent} here: go to the top folder of the repository", file=sys.stderr)
        return 2
    if "--check" not in arguments:
        PAGE.write_text(render(), "utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text("utf-8") == render():
        return 0
    print(f"{PAGE} differs: run `python -m stepweave_orchestrator.cli.reference`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
