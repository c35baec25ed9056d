"""A pipeline: tasks with an owner, policies and a playbook."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sidestage.data.dataset import Dataset
from sidestage.data.names import check_pipeline_name
from sidestage.errors import DefinitionError
from sidestage.pipeline.playbook import Playbook
from sidestage.pipeline.task import Location, Reads, Task, read_query
from sidestage.pipeline.terms import Terms
from sidestage.pipeline.trigger import AnyTrigger
from sidestage.policy.retry import Retry

Function = TypeVar("Function", bound=Callable[..., Any])


class Pipeline:
    """Tasks that belong together.

    ``owner`` is who is asked when it fails, ``retry`` how often a failed step is tried again unless its task
    says otherwise, ``playbook`` its known failures and their answers, ``terms`` under which its tasks run
    (limits, runtime, queue, pool), unless they have terms of their own, ``trigger`` when workers begin a run
    of it by themselves. Raises NameRefused, or DefinitionError for what is no trigger.
    """

    def __init__(
        self,
        name: str,
        *,
        owner: str = "",
        retry: Retry | None = None,
        playbook: Playbook | None = None,
        description: str = "",
        terms: Terms | None = None,
        trigger: AnyTrigger | None = None,
    ) -> None:
        if trigger is not None and not isinstance(trigger, AnyTrigger):
            raise DefinitionError(
                f"Pipeline {name!r}: {trigger!r} is no trigger.",
                hint="Use days.closes, Every(timedelta(hours=1)) or Cron('0 2 * * *').",
            )
        self.name = check_pipeline_name(name)
        self.owner = owner
        self.retry = Retry() if retry is None else retry
        self.playbook = playbook
        self.description = description
        self.terms = Terms() if terms is None else terms
        self.trigger = trigger
        self.tasks: dict[str, Task] = {}

    def task(
        self,
        *,
        writes: Dataset,
        reads: Reads = (),
        name: str | None = None,
        retry: Retry | None = None,
        terms: Terms | None = None,
    ) -> Callable[[Function], Function]:
        """Declare the decorated function as a task; the function itself stays as it is.

        It takes the partition to make, then one input for each dataset of ``reads`` in the type that the
        parameter annotates, and returns the partition's rows, or its value. Raises DefinitionError.
        """

        def declare(function: Function) -> Function:
            self._add(
                Task(
                    name or function.__name__,
                    reads=reads,
                    writes=writes,
                    location=Location.of_function(function),
                    function=function,
                    retry=retry,
                    terms=Terms() if terms is None else terms,
                )
            )
            return function

        return declare

    def sql(
        self,
        name: str,
        *,
        writes: Dataset,
        query: str,
        reads: Reads = (),
        retry: Retry | None = None,
        terms: Terms | None = None,
    ) -> None:
        """Declare a DuckDB query as a task: SQL text, or the path of a ``.sql`` file.

        Its inputs are relations, named by the keys of ``reads`` or by the last part of each dataset's name.
        ``$partition`` (the key), ``$start`` and ``$end`` are bound where the query mentions them.
        Raises DefinitionError.
        """
        location = Location.of_caller(1)
        text = read_query(query, Path(location.file).resolve().parent, location)
        self._add(
            Task(
                name,
                reads=reads,
                writes=writes,
                location=location,
                query=text,
                retry=retry,
                terms=Terms() if terms is None else terms,
            )
        )

    def _add(self, task: Task) -> None:
        other = self.tasks.get(task.name)
        if other is not None:
            raise DefinitionError(
                f"{task.location}: pipeline {self.name!r} has a task {task.name!r} already, "
                f"declared at {other.location}.",
                hint="Give one of them another name.",
            )
        self.tasks[task.name] = task

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self.tasks)} tasks)"
