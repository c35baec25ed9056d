"""What a Kafka source or sink says without a broker."""

import subprocess
import sys
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from sidestage.connectors import kafka_transactions
from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.kafka import KafkaSink, KafkaSource, KafkaTransactionalSink, part_of, values
from sidestage.connectors.kafka_faults import class_of, explain
from sidestage.connectors.kafka_reader import place_of
from sidestage.errors import DefinitionError
from sidestage.policy.failure import RETRYABLE, classify

SECRET = {"sasl.username": "me", "sasl.password": "hush"}


def source(**more):
    return KafkaSource(**{"servers": "localhost:1", "topics": ("t",), "group": "g", "items": values, **more})


@pytest.mark.parametrize("setting", ["enable.auto.commit", "auto.offset.reset", "group.id", "acks"])
def test_a_setting_on_which_promises_rest_is_refused(setting):
    for make in (
        lambda given: source(settings=given),
        lambda given: KafkaSink(servers="x", topic="t", settings=given),
        lambda given: KafkaTransactionalSink(servers="x", topic="t", identity="i", settings=given),
    ):
        with pytest.raises(DefinitionError, match=setting):
            make({setting: "1"})


@pytest.mark.parametrize("wrong", [{"topics": "orders"}, {"topics": ()}, {"group": ""}])
def test_a_source_needs_topics_and_a_group(wrong):
    with pytest.raises(DefinitionError, match="needs topics and a group"):
        source(**wrong)


def test_a_password_is_not_shown():
    sinks = KafkaSink, KafkaTransactionalSink
    described = [source(settings=SECRET), sinks[0](servers="x", topic="t", settings=SECRET)]
    described.append(sinks[1](servers="x", topic="t", identity="i", settings=SECRET))
    assert all("hush" not in f"{each!r} {each}" for each in described)
    assert [each.name for each in described] == ["kafka:t"] * 3


def test_describing_loads_no_client():
    code = "import sys, sidestage.connectors.kafka as k; k.KafkaSink(servers='x', topic='t')\n"
    code += "assert 'confluent_kafka' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (KafkaError._TRANSPORT, "transient"),
        (KafkaError._MSG_TIMED_OUT, "transient"),
        (KafkaError.NOT_ENOUGH_REPLICAS, "transient"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "authentication"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "authentication"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "validation"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "bug"),
        (KafkaError.PRODUCER_FENCED, "stale"),
        (KafkaError.THROTTLING_QUOTA_EXCEEDED, "rate-limited"),
        (KafkaError._QUEUE_FULL, "resource"),
        (KafkaError._NOT_IMPLEMENTED, "bug"),
    ],
)
def test_an_error_is_classified_as_the_policies_do(code, wanted):
    error = explain(KafkaException(KafkaError(code)), "Writing kafka:t")
    assert (class_of(KafkaError(code)), error.failure_class, classify(error)) == (wanted, wanted, wanted)
    assert error.transient == (wanted in RETRYABLE)
    assert error.message.startswith("Writing kafka:t failed: ")


def test_what_the_client_says_in_words_only_is_kept():
    assert "unknown property" in explain(KafkaException("unknown property"), "Reading").message
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = KafkaException(KafkaError(KafkaError._FENCED))
    assert explain(wrapped, "Writing").failure_class == "stale"
    assert isinstance(explain(SystemError("alone"), "Writing"), ConnectorError)


def test_a_part_names_its_topic_and_number():
    place = place_of(part_of("a.b-c_d", 12), 7)
    assert (place.topic, place.partition, place.offset) == ("a.b-c_d", 12, 7)


def test_a_client_that_does_not_come_back_is_not_waited_for():
    never, answered = threading.Event(), threading.Event()
    with pytest.raises(kafka_transactions._Stuck):
        kafka_transactions._in_time(never.wait, -kafka_transactions.HANGING_SECONDS)
    never.set()
    kafka_transactions._in_time(answered.set, 10.0)
    assert answered.is_set()
    with pytest.raises(ZeroDivisionError):
        kafka_transactions._in_time(lambda: 1 // 0, 10.0)
