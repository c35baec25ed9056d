"""A pipeline: tasks with an owner, policies and a playbook."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from sidestage.data.dataset import Dataset
from sidestage.data.names import check_pipeline_name
from sidestage.errors import DefinitionError
from sidestage.pipeline.playbook import Playbook
from sidestage.pipeline.service import Service, ServiceTerms
from sidestage.pipeline.task import Location, Reads, Task, read_query
from sidestage.pipeline.terms import Terms
from sidestage.pipeline.trigger import AnyTrigger
from sidestage.policy.restart import Restart
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
        self.services: dict[str, Service] = {}

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

    def service(
        self,
        name: str | None = None,
        *,
        restart: Restart | None = None,
        fail: Literal["fast", "soft"] = "soft",
        grace: float | None = None,
        port: int = 0,
    ) -> Callable[[Function], Function]:
        """Declare the decorated function as a service; the function itself stays as it is.

        It takes nothing, or its ``ServiceContext``, and returns a ``Flow`` that workers keep running, one of
        them at a time; see ``ServiceTerms`` for the rest. Raises DefinitionError.
        """
        terms = ServiceTerms(restart or Restart(), fail, grace, port)

        def declare(function: Function) -> Function:
            service = Service(name or function.__name__, function, terms)
            self._require_new(service)
            self.services[service.name] = service
            return function

        return declare

    def _add(self, task: Task) -> None:
        self._require_new(task)
        self.tasks[task.name] = task

    def _require_new(self, declared: Task | Service) -> None:
        other = self.tasks.get(declared.name) or self.services.get(declared.name)
        if other is not None:
            kind = "task" if isinstance(other, Task) else "service"
            raise DefinitionError(
                f"{declared.location}: pipeline {self.name!r} has a {kind} {declared.name!r} already, "
                f"declared at {other.location}.",
                hint="Give one of them another name.",
            )

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self.tasks)} tasks)"
