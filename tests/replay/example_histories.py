"""Histories of the examples: each input is run once in memory, with the example's own handlers.

`recorded/examples/<example>/<input>.json` is the history of the task, `<input>__<step>.json` that of the task that
this step started. An example without `inputs/` is run with its `context.json`. Not here: `examples/node-worker`, whose
second step no Python worker can run.
"""

from __future__ import annotations

import re
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from stepweave import Registry
from stepweave.subscriber.events import Event
from stepweave.testing import Signal, WorkflowRun, run_workflow
from stepweave_orchestrator.cli.demo_examples import Example, Input, Run, find_examples, load_templates
from stepweave_schemas.codec import encode
from stepweave_schemas.envelope import Envelope, decode_envelope, envelope_bytes, parse_timestamp
from stepweave_schemas.template import TaskTemplate

from .history import FOLDER, History, replay, statuses, summary

PROJECT: Final = Path(__file__).parents[2]
EXAMPLES: Final = PROJECT / "examples"
EXAMPLES_FOLDER: Final = FOLDER / "examples"
#: Where an example's files go, below a folder that only the recording has.
WORK_DIR: Final = "work"
#: When a signal is sent that answers a step: later than the steps before it take, sooner than any example's deadline.
ANSWER_AFTER_SECONDS: Final = 1.0
#: A history that is larger says nothing that a smaller one would not: the input should be made smaller.
HISTORY_BYTES_MAX: Final = 300_000


class NotRecordable(Exception):
    """A run that should not become a history; the message says what to change."""


@dataclass(frozen=True)
class ExampleRun:
    """One run of an example, of which there should be a history."""

    run: Run
    #: What its task and the tasks of its steps are made of.
    templates: tuple[TaskTemplate, ...]

    @property
    def path(self) -> Path:
        """The file of the task's history."""
        return EXAMPLES_FOLDER / self.run.example / f"{self.run.name}.json"


def example_runs() -> list[ExampleRun]:
    """Every run that should have a history, by example and input."""
    return [
        ExampleRun(run, tuple(example.templates.values()))
        for example in (*find_examples(EXAMPLES), *_examples_without_inputs())
        for run in example.runs
    ]


def _examples_without_inputs() -> Iterator[Example]:
    for context in sorted(EXAMPLES.glob("*/context.json")):
        folder = context.parent
        if (folder / "inputs").is_dir():
            continue
        templates = load_templates(folder)
        [template] = templates.values()
        given = Input(
            context=msgspec.json.decode(context.read_bytes()),
            description=f"{folder.name} as its README runs it",
        )
        yield Example(folder, templates, (Run(folder.name, context.stem, template, given),))


# -- running -------------------------------------------------------------------------------------


def histories_of(example: ExampleRun) -> dict[Path, History]:
    """Run it; gives the histories of its task and of all tasks below, by the files that they belong in.

    Raises `NotRecordable` where it does not end as its input says, or where something of this machine got into it.
    """
    run = example.run
    registry = Registry()
    registry.discover(f"examples.{run.example}.handlers")
    signals = [
        Signal(each.name, each.payload, 0.0 if each.early else ANSWER_AFTER_SECONDS)
        for each in run.input.signals
    ]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        done = run_workflow(
            run.template,
            registry,
            _context(run),
            signals=signals,
            templates=example.templates,
            # Each task has an id of its own, and it is the same one wherever it is recorded.
            seed=zlib.crc32(run.title.encode()),
        )
        if fault := _fault(run.input, done):
            raise NotRecordable(f"{run.title}: {fault}")
        histories = dict(_with_children(example, example.path, run.input.description, done))
        for path, history in histories.items():
            _check(path, msgspec.json.encode(history), folder)
    return histories


def _context(run: Run) -> dict[str, Any]:
    """The input's context; files go to a place without this machine's paths."""
    schema = run.template.canonical().get("input_schema", {})
    writes_files = "work_dir" in schema.get("properties", {})
    return {**run.input.context, "work_dir": WORK_DIR} if writes_files else run.input.context


def _fault(wanted: Input, done: WorkflowRun) -> str:
    """Why a run did not go as its input says; empty where it did."""
    if done.status != wanted.expect:
        return f"it should be {wanted.expect}, and is {done.status}"
    step = wanted.expect_failed_step
    if step is not None and done.state(step) != "error":
        return f"its step {step} should have failed, and is {done.state(step)}"
    if done.task.compensation_status != wanted.expect_compensation:
        return (
            f"its compensation should be {wanted.expect_compensation}, and is {done.task.compensation_status}"
        )
    if done.refused_signals:
        return f"a signal was refused: {'; '.join(done.refused_signals)}"
    answers = [each for each in wanted.signals if not each.early]
    types = [event.type for event in done.events]
    if answers and types.index("signal.received") < types.index("signal.awaited"):
        return f"a signal came after {ANSWER_AFTER_SECONDS:g} s, and no step waited for it: choose a later moment"
    return ""


def _with_children(
    example: ExampleRun, path: Path, story: str, done: WorkflowRun
) -> Iterator[tuple[Path, History]]:
    yield path, _history(example, path, story, done)
    for step, child in done.children.items():
        below = path.with_name(f"{path.stem}__{step}.json")
        yield from _with_children(example, below, f"{story} – the task that its step {step} started", child)


def _history(example: ExampleRun, path: Path, story: str, done: WorkflowRun) -> History:
    created = done.events[0]["template"]
    [template] = [each for each in example.templates if each.content_hash() == created["hash"]]
    packed = [_packed(event) for event in done.events]
    made = History(
        name=path.relative_to(FOLDER).with_suffix("").as_posix(),
        story=story,
        template=template.canonical(),
        template_hash=template.content_hash(),
        events=[msgspec.Raw(each) for each in packed],
        states=[],
        expected={},
    )
    states: list[list[str]] = []
    for event, state in replay([decode_envelope(each) for each in packed], made.plan()):
        states.append(statuses(event, state))
    return msgspec.structs.replace(made, states=states, expected=summary(state))


def _packed(event: Event) -> bytes:
    """An event as it travels."""
    fields = {name: event[name] for name in Envelope.__struct_fields__ if name not in {"data", "recorded_at"}}
    return envelope_bytes(
        **fields,
        recorded_at_ms=parse_timestamp(event["recorded_at"]),
        data=encode({"type": event["type"], **event.data}),
    )


def _check(path: Path, content: bytes, folder: str) -> None:
    """Refuse what holds this machine's paths or its name, or is too large."""
    name = path.relative_to(EXAMPLES_FOLDER)
    if len(content) > HISTORY_BYTES_MAX:
        raise NotRecordable(
            f"{name} would have {len(content)} bytes, {HISTORY_BYTES_MAX} at most: make the context smaller"
        )
    text = content.decode()
    for own in (folder, tempfile.gettempdir(), str(PROJECT), str(Path.home()), socket.gethostname()):
        if found := re.search(rf".{{0,60}}(?<![\w-]){re.escape(own)}(?![\w-])", text):
            raise NotRecordable(
                f"{name} would hold {own!r} of this machine, in {found.group()!r}: keep it out of results and errors"
            )
