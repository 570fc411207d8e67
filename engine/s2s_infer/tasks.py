"""What a checkpoint says of its tasks: task_specific_params of config.json.

A task has a prefix, which goes before every text (T5's "summarize: "), and decoding defaults of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ModelError, OptionError
from .formats.files import shown
from .generation import GENERATION_OPTIONS, GenerationConfig
from .records import record

MAX_TASKS = 1000


@record
class Task:
    """One task of a checkpoint."""

    prefix: str
    """Goes before every text; "" for none."""
    options: Mapping[str, Any]
    """Decoding options that are its defaults."""

    def to_dict(self) -> dict[str, Any]:
        """What `read_tasks` reads back."""
        return {"prefix": self.prefix, **self.options}


def read_tasks(values: object, what: str) -> dict[str, Task]:
    """The tasks of task_specific_params by name; what: the file, for errors.  Raises ModelError."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or len(values) > MAX_TASKS:
        raise ModelError(f"{what} sets task_specific_params to {shown(values)}, not tasks by name.")
    tasks = {}
    for name, params in values.items():
        if not isinstance(params, Mapping):
            raise ModelError(f"{what} sets the task {shown(name)} to {shown(params)}.")
        prefix = params.get("prefix") or ""
        if not isinstance(prefix, str):
            raise ModelError(f"{what} sets the prefix of {shown(name)} to {shown(prefix)}.")
        options = GenerationConfig.from_dict(
            {key: value for key, value in params.items() if key in GENERATION_OPTIONS}
        ).to_dict()
        tasks[str(name)] = Task(prefix, options)
    return tasks


def choose_task(
    tasks: Mapping[str, Task], task: str | None, source_lang: str | None, to: str | None
) -> Task | None:
    """The task that a caller means: by its name, or a translation's by its two languages.

    Raises OptionError for a name that the checkpoint does not know.
    """
    if task is None:
        if not tasks:
            return None
        return tasks.get(f"translation_{source_lang}_to_{to}")
    if task not in tasks:
        known = ", ".join(sorted(tasks)) or "none"
        raise OptionError(f"unknown task {shown(task)}; the model's tasks are {known}.")
    return tasks[task]
