"""One error tree: what happened, where, and what to do next.

SidestageError
├── ConfigurationError        sidestage.toml, command line or environment is wrong
├── DefinitionError           a dataset, task or pipeline was declared wrongly (names file and line)
│   ├── NameRefused             a dataset or task name that is not allowed
│   ├── PartitionKeyError       a partition key that does not exist in its set
│   └── GraphError              unknown input, cycle, two writers of one dataset
├── TaskError                 user code failed or returned what cannot be written
│   ├── OutputError             a task returned something that cannot be written
│   └── CheckFailed             a blocking check found something; nothing was published
├── DataError                 data on disk is missing, damaged or not what was recorded
├── StoreError                the catalog refused or could not do something
│   ├── StaleWorld              the world moved since the plan, comparison or claim was made
│   ├── Fenced                  a late worker tried to publish after losing its claim
│   └── SchemaMismatch          the catalog belongs to another release of Sidestage
├── GateClosed                code may not reach production yet
├── NotFound                  no such pipeline, dataset, environment, run or version
├── RunFailed                 a run ended with failed steps
├── StreamFailed              a stream ended because of an item, or of itself
│   └── StreamHangs             threads of a stream did not end although it was told to stop
└── MemoryRefused             a stream would have to hold more than was declared
    ├── ItemTooLarge            one item that is larger than all of it
    └── WindowsFull             more windows of keys than may be open at once

Every error says whether trying the same again can help (``transient``) and what to do next (``hint``).
"""


class SidestageError(Exception):
    """Something Sidestage refuses or could not do.

    ``message`` says what happened and where, ``hint`` what to do next (may be empty).
    """

    transient = False
    """Whether trying the same thing again can help."""

    exit_code = 1
    """Exit status of a command that ends with this error."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip() if self.hint else self.message


class ConfigurationError(SidestageError):
    """The configuration file, command line or environment is wrong."""

    exit_code = 2


class DefinitionError(SidestageError):
    """A dataset, task or pipeline was declared wrongly."""

    exit_code = 2


class NameRefused(DefinitionError):
    """A name that is not allowed, because it could not be told apart or kept safe everywhere."""


class PartitionKeyError(DefinitionError):
    """A partition key that does not exist in its partition set."""


class GraphError(DefinitionError):
    """Unknown input, cycle, or two writers of one dataset."""


class TaskError(SidestageError):
    """User code failed, or returned what cannot be written."""

    exit_code = 4


class OutputError(TaskError):
    """A task returned something that cannot be written."""


class CheckFailed(TaskError):
    """A blocking check found something; nothing was published."""


class DataError(SidestageError):
    """Data on disk is missing, damaged or not what was recorded."""

    exit_code = 5


class StoreError(SidestageError):
    """The catalog refused or could not do something."""

    exit_code = 6


class StaleWorld(StoreError):
    """The world moved since the plan, comparison or claim was made."""

    transient = True


class Fenced(StoreError):
    """A late worker tried to publish after losing its claim."""


class SchemaMismatch(StoreError):
    """The catalog belongs to another release of Sidestage."""


class GateClosed(SidestageError):
    """Code may not reach production yet."""

    exit_code = 3


class NotFound(SidestageError):
    """No such pipeline, dataset, environment, run or version."""

    exit_code = 2


class RunFailed(SidestageError):
    """A run ended with failed steps."""

    exit_code = 4


class StreamFailed(SidestageError):
    """A stream ended because of an item that nothing else was said about, or of itself."""

    exit_code = 4


class StreamHangs(StreamFailed):
    """Threads of a stream did not end in time, although it was told to stop: nobody can end them."""


class MemoryRefused(SidestageError):
    """A stream would have to hold more than was declared."""

    exit_code = 4


class ItemTooLarge(MemoryRefused):
    """An item that is larger than the whole budget of the stream; it was not let in."""

    failure_class = "validation"


class WindowsFull(MemoryRefused):
    """More windows and keys are open than the budget allows; the item was not counted."""

    failure_class = "resource"
