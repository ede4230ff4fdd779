"""Which failures of a task are tried again: the class of the error decides, never its text."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun

from data_contracts.errors import TransientError


def is_transient(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Say whether a failed task may succeed if tried again: the `retry_condition_fn` of our tasks."""
    return isinstance(state.data, TransientError)
