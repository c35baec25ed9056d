"""Say what an error of Kafka means: its failure class, and what to do."""

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from sidestage.connectors.failure import ConnectorError
from sidestage.policy.failure import FailureClass

_REFUSED_US = (
    KafkaError._AUTHENTICATION,  # noqa: SLF001 - names of the client's own errors begin so
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.SECURITY_DISABLED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.DELEGATION_TOKEN_EXPIRED,
    KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
)
_NO_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError.TOPIC_EXCEPTION,
)
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_NOT_VALID = (
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
)
_FENCED_OFF = (
    KafkaError._FENCED,  # noqa: SLF001
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
)
_SHARED_ANEW = (
    KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
    KafkaError._MAX_POLL_EXCEEDED,  # noqa: SLF001
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.UNKNOWN_MEMBER_ID,
)
_FULL = (
    KafkaError._CRIT_SYS_RESOURCE,  # noqa: SLF001
    KafkaError._QUEUE_FULL,  # noqa: SLF001
    KafkaError.GROUP_MAX_SIZE_REACHED,
)
_AWAY = (
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
    KafkaError._NODE_UPDATE,  # noqa: SLF001
    KafkaError._NO_OFFSET,  # noqa: SLF001
    KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
    KafkaError._PURGE_QUEUE,  # noqa: SLF001
    KafkaError._RESOLVE,  # noqa: SLF001
    KafkaError._RETRY,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
    KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
    KafkaError._TRANSPORT,  # noqa: SLF001
    KafkaError._WAIT_CACHE,  # noqa: SLF001
    KafkaError._WAIT_COORD,  # noqa: SLF001
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.TRANSACTION_ABORTABLE,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
)

_MEANINGS: tuple[tuple[tuple[int, ...], FailureClass, str], ...] = (
    (_REFUSED_US, "authentication", "Check the user, its password or certificate, and its rights."),
    (_NO_TOPIC, "bug", "Check the topic's name, or create it."),
    (_TOO_LARGE, "validation", "Make it smaller, or raise the topic's max.message.bytes."),
    (_NOT_VALID, "validation", "Look at what the topic accepts."),
    (_FENCED_OFF, "stale", "Somebody else does this now; begin again from what is committed."),
    (_SHARED_ANEW, "transient", "The group is sharing out its parts anew."),
    (
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL,),
        "bug",
        "All members of the group must assign partitions the cooperative-sticky way.",
    ),
    ((KafkaError.THROTTLING_QUOTA_EXCEEDED,), "rate-limited", "The broker allows no more for now."),
    (_FULL, "resource", ""),
    (_AWAY, "transient", "Is the broker running? It is tried again."),
)
_BY_CODE = {code: (kind, hint) for codes, kind, hint in _MEANINGS for code in codes}

FAILURES = (KafkaException, SystemError)
"""What calls of the client raise. While it serves callbacks, Python wraps the former in the latter."""

LOGGER = logging.getLogger("sidestage.connectors.kafka")
"""Where the client's own messages go, which would be on standard error else."""


def class_of(error: KafkaError) -> FailureClass:
    """Return the failure class of an error; of an unknown one, the client says if it may be retried."""
    known = _BY_CODE.get(error.code())
    if known is not None:
        return known[0]
    if error.fatal():
        return "stale"
    return "transient" if error.retriable() or error.txn_requires_abort() else "bug"


def explain(error: KafkaError | Exception, doing: str) -> ConnectorError:
    """Return the error that says what failed: ``doing`` is such as "Reading orders"."""
    said = error.__cause__ if isinstance(error, SystemError) else error
    cause: Any = said.args[0] if isinstance(said, KafkaException) and said.args else said or error
    if not isinstance(cause, KafkaError):
        return ConnectorError(f"{doing} failed: {cause}", failure_class="bug")
    hint = _BY_CODE.get(cause.code(), ("", ""))[1]
    return ConnectorError(
        f"{doing} failed: {cause.str()} ({cause.name()}).", hint=hint, failure_class=class_of(cause)
    )


def error_of(error: KafkaException) -> KafkaError | None:
    """Return what the client says is the matter; None if it says so in words only."""
    cause = error.args[0] if error.args else None
    return cause if isinstance(cause, KafkaError) else None


def concerns_us(error: KafkaError) -> bool:
    """Whether an error that the client tells of in passing does not go away when the broker comes back."""
    return error.fatal() or error.code() in _REFUSED_US


def is_missing_offset(error: KafkaError) -> bool:
    """Whether there is no position to begin at, or not any more."""
    return error.code() == KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001


def is_too_large(error: KafkaError) -> bool:
    """Whether a message, or the batch it was sent in, is larger than the topic accepts."""
    return error.code() in _TOO_LARGE
