"""`stepweave new`: a first template with its handlers, test and README, that runs as made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from .errors import CommandError, ExitCode
from .output import progress, say


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the workflow; a folder of this name is made.")
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Its namespace.", metavar="NAMESPACE")
    ] = "default",
) -> None:
    """Make a first workflow that runs.

    A folder with a template, handlers, a test and a README.
    """
    from stepweave_schemas.template import NAME_PATTERN

    folder = Path(name)
    workflow = re.sub(r"[^a-z0-9_]+", "_", folder.name.lower()).strip("_")
    for what, text in (("name", workflow), ("namespace", namespace)):
        if not re.fullmatch(NAME_PATTERN, text):
            raise CommandError(
                f"{text or name!r} is no {what}: use letters, digits, _ and -, the first one a letter",
                ExitCode.USAGE,
            )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} is there already: choose another name, or remove it", ExitCode.REFUSED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in scaffold(workflow, namespace).items():
            (folder / file).write_text(text, "utf-8")
            say(str(folder / file))
    except OSError as error:
        raise CommandError(
            f"{folder} cannot be written ({error.strerror}): choose another place or free some space"
        ) from None
    progress(f"\nnext:\n  cd {folder}\n  stepweave dev handlers --templates template.yaml")


def scaffold(workflow: str, namespace: str) -> dict[str, str]:
    """The files, by their names."""
    values = {"workflow": workflow, "namespace": namespace}
    return {file: _filled(text, values) for file, text in _FILES.items()}


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


_TEMPLATE = """\
# What a run of the workflow looks like: which steps there are, and what each waits for.
namespace: <namespace>
name: <workflow>
version: 1.0.0
description: Greets somebody, twice, and sends both greetings.

# A task whose input does not fit is refused before anything starts.
input_schema:
  type: object
  required: [name]
  properties:
    name: {type: string, minLength: 1}
    fail_first: {type: boolean, default: false}

steps:
  - name: look_up_person
    handler: <workflow>_look_up_person

  # These two run side by side.
  - name: write_greeting
    handler: <workflow>_write_greeting
    dependencies: [look_up_person]
  - name: write_wish
    handler: <workflow>_write_wish
    dependencies: [look_up_person]

  - name: send
    handler: <workflow>_send
    dependencies: [write_greeting, write_wish]
    timeout_seconds: 10
    retry:
      max_attempts: 3
      backoff: exponential
      backoff_base_ms: 500
"""

_HANDLERS = '''\
"""What the steps of <workflow> do. Plain functions and async ones are both fine."""

from pydantic import BaseModel

from stepweave import PermanentError, RetryableError, depends_on, inputs, step_handler


class Person(BaseModel):
    """The task's input."""

    name: str
    fail_first: bool = False


@step_handler("<workflow>_look_up_person")
@inputs(Person)
def look_up_person(inputs: Person, context):
    if inputs.name.strip() == "":
        # No retry will help: the step fails for good.
        raise PermanentError("a name has letters", error_code="EMPTY_NAME")
    return {"name": inputs.name.strip().title()}


@step_handler("<workflow>_write_greeting")
@depends_on(person="look_up_person")
def write_greeting(person, context):
    return {"text": f"Hello {person['name']}!"}


@step_handler("<workflow>_write_wish")
@depends_on(person="look_up_person")
def write_wish(person, context):
    return {"text": f"Have a good day, {person['name']}."}


@step_handler("<workflow>_send")
@depends_on(greeting="write_greeting", wish="write_wish")
@inputs(Person)
async def send(greeting, wish, inputs: Person, context):
    if inputs.fail_first and not context.is_retry():
        # The step is tried again, after the template's backoff.
        raise RetryableError("the post office is closed", error_code="CLOSED")
    return {"sent": [greeting["text"], wish["text"]], "message_id": context.step_uuid}
'''

_TEST = '''\
"""Tests of single handlers; they need no server."""

import handlers
from stepweave.testing import run_handler


def test_a_name_is_tidied():
    result = run_handler(handlers.look_up_person, {"name": " ada "})
    assert result.result == {"name": "Ada"}


def test_an_empty_name_fails_for_good():
    result = run_handler(handlers.look_up_person, {"name": " "})
    assert not result.is_success
    assert result.error_code == "EMPTY_NAME"
    assert result.retryable is False


def test_sending_is_tried_again():
    written = {"write_greeting": {"text": "Hello!"}, "write_wish": {"text": "Bye."}}
    first = run_handler(handlers.send, {"name": "Ada", "fail_first": True}, dependencies=written)
    assert first.error_code == "CLOSED" and first.retryable is True
    second = run_handler(handlers.send, {"name": "Ada", "fail_first": True}, dependencies=written, attempt=2)
    assert second.result["sent"] == ["Hello!", "Bye."]
'''

_README = """\
# <workflow>

    stepweave dev handlers --templates template.yaml

starts everything on this machine. In another terminal, in this folder:

    stepweave task create <namespace>/<workflow> --set name=ada --watch
    stepweave task create <namespace>/<workflow> --set name=ada --set fail_first=true --watch
    stepweave task create <namespace>/<workflow> --set name=
    stepweave task list
    stepweave template graph template.yaml

The second one fails once and is tried again; the third is refused, since the template wants a name.

| file | what is in it |
|---|---|
| `template.yaml` | the steps, and what each waits for |
| `handlers.py` | what each step does |
| `test_handlers.py` | tests of single handlers: `python -m pytest` |

Other content of a registered template needs another `version` in it.
"""

_FILES = {
    "template.yaml": _TEMPLATE,
    "handlers.py": _HANDLERS,
    "test_handlers.py": _TEST,
    "README.md": _README,
}
