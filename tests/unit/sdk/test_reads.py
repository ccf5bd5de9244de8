"""What a handler can read decides whether a worker must fetch results that did not fit into a dispatch."""

from __future__ import annotations

from stepweave import StepContext, StepHandler, StepHandlerResult, depends_on, inputs, step_handler
from stepweave.invocation import invocation_of


@step_handler("declares")
@depends_on(left="a", right="b")
@inputs("n")
def declares(left: object, right: object, n: int) -> None: ...


@step_handler("takes_context")
@depends_on(left="a")
def takes_context(left: object, context: StepContext) -> None: ...


@step_handler("takes_nothing")
def takes_nothing() -> None: ...


class ByClass(StepHandler):
    handler_name = "by_class"

    def call(self, context: StepContext) -> StepHandlerResult:
        return self.success({})


def test_reads_are_known_where_a_handler_declares_them() -> None:
    assert invocation_of(declares).reads == frozenset({"a", "b"})
    assert invocation_of(takes_nothing).reads == frozenset()


def test_a_handler_with_the_context_may_read_everything() -> None:
    assert invocation_of(takes_context).reads is None
    assert invocation_of(ByClass).reads is None
    assert invocation_of(lambda context: None, name="plain").reads is None
