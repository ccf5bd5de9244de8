"""What a bulk operation asks of one task: what `task.cancel` and its like would."""

from __future__ import annotations

from typing import Final

from stepweave_orchestrator.core import operator_commands as commands
from stepweave_schemas.identity import derived_uuid

from .state import BulkState

_COMMANDS: Final[dict[str, type[commands.TaskAction]]] = {
    "pause": commands.PauseTask,
    "resume": commands.ResumeTask,
    "retry": commands.RetryTask,
    "give_up": commands.GiveUpTask,
    "resolve": commands.ResolveTask,
}


def operator_command(state: BulkState, task_id: str) -> commands.TaskAction | None:
    """The command to a task, the same each time it is asked; `None` where the action is to cancel it."""
    kind = _COMMANDS.get(state.action)
    if kind is None:
        return None
    request_id = derived_uuid("bulk_action", state.stream_id, task_id)
    return kind(by=state.requested_by, reason=state.reason, request_id=request_id)


def allowed_name(action: str) -> str:
    """The action by its name in `allowed.TASK_ACTIONS`."""
    return "resolve_manually" if action == "resolve" else action
