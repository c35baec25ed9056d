"""What an outside system said, as an error that knows its failure class."""

from sidestage.errors import SidestageError
from sidestage.policy.failure import RETRYABLE, FailureClass


class ConnectorError(SidestageError):
    """An outside system refused or could not do something; ``failure_class`` says what that means."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str = "", failure_class: FailureClass) -> None:
        super().__init__(message, hint=hint)
        self.failure_class = failure_class
        self.transient = failure_class in RETRYABLE


class PartsLost(ConnectorError):
    """Parts of a source were taken away while their items were under way: somebody else has them again."""
