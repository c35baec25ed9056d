"""Checks of the contracts of ``sidestage.stream.contract``, for your own sources and sinks, too.

Each class holds checks as methods whose names begin with ``test_``. With pytest, inherit from one in a class
whose name begins with ``Test``, and give it a fixture ``place`` that makes a new, empty place:

    class TestQueueSource(SourceContract):
        @pytest.fixture
        def place(self, tmp_path):
            return QueuePlace(tmp_path)

Anything else may call the methods with a new place each. They raise AssertionError, and need no pytest.
"""

from sidestage.testing.sink_contract import SinkContract, SinkPlace, Unsuitable
from sidestage.testing.source_contract import SourceContract, SourcePlace
from sidestage.testing.transaction_contract import TransactionalSinkContract, TransactionalSinkPlace

__all__ = [
    "SinkContract",
    "SinkPlace",
    "SourceContract",
    "SourcePlace",
    "TransactionalSinkContract",
    "TransactionalSinkPlace",
    "Unsuitable",
]
