"""A real Kafka 4 broker: one node that is its own controller, in a temporary folder, on free ports."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.servers.ports import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
STOP_SECONDS = 120.0
JAVA = (
    *("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
USER, PASSWORD = "reader", "secret"
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.guarded.plain.sasl.jaas.config": (
        f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    ),
    "num.partitions": "1",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A broker that was killed is waited for until its session ends.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "2000",
    "log.cleaner.dedupe.buffer.size": "2097152",  # the usual one does not fit into the small heap
}


class Broker:
    """A broker that lives in a folder and can be killed and started again on the same data and ports.

    ``servers`` is its open door, ``guarded`` the one that asks for USER and PASSWORD (SASL, PLAIN).
    """

    def __init__(self, folder: Path, properties: Mapping[str, str] | None = None) -> None:
        self._jars = _jars()
        self._folder = folder
        self._file = folder / "server.properties"
        self._process: subprocess.Popen[Any] | None = None
        plain, controller, guarded = free_ports(3)
        self.servers = f"127.0.0.1:{plain}"
        self.guarded = f"127.0.0.1:{guarded}"
        doors = f"PLAINTEXT://{self.servers},GUARDED://{self.guarded}"
        of_this = {
            "listeners": f"{doors},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": doors,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "log.dirs": str(folder / "data"),
        }
        lines = {**PROPERTIES, **of_this, **(properties or {})}
        self._file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        cluster = base64.urlsafe_b64encode(b"\1" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        format_words = ("format", "--standalone", "-t", cluster, "-c", str(self._file))
        with self._log() as log:
            command = self._command("kafka.tools.StorageTool", *format_words)
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder)

    def start(self) -> None:
        """Start it on the data that is there, and wait until it leads all its partitions."""
        with self._log() as log:
            command = self._command("kafka.Kafka", str(self._file))
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, if it runs, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it as a power cut would: nothing is written or said any more."""
        self.stop(signal.SIGKILL)

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Create a topic, wait until it can be used, and return its name; ``max_message_bytes="1000"``."""
        named = {key.replace("_", "."): value for key, value in config.items()}
        admin = self._admin()
        deadline = time.monotonic() + START_SECONDS
        while not _is_made(admin, NewTopic(name, partitions, 1, config=named)):
            assert time.monotonic() < deadline, f"the topic {name} cannot be created"
            time.sleep(0.1)
        while not _is_led(admin, name):
            assert time.monotonic() < deadline, f"the topic {name} has no leader"
            time.sleep(0.02)
        return name

    def committed(self, group: str, topic: str, partitions: int = 1) -> list[int]:
        """Return where a group stands in each partition; -1001 (OFFSET_INVALID) where nothing is committed."""
        settings = {"bootstrap.servers": self.servers, "group.id": group, "log_level": 0}
        places = [TopicPartition(topic, number) for number in range(partitions)]
        deadline = time.monotonic() + START_SECONDS
        with closing(Consumer(settings)) as asker:
            while True:
                try:
                    return [place.offset for place in asker.committed(places, START_SECONDS)]
                except KafkaException:  # who keeps the group's positions is found out when first asked for
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)

    def _wait_until_ready(self, process: subprocess.Popen[Any]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens() or not _is_led(self._admin()):
            assert process.poll() is None, f"the broker has ended:\n{self._said()}"
            assert time.monotonic() < deadline, f"the broker is not ready in time:\n{self._said()}"
            time.sleep(0.05)

    def _listens(self) -> bool:
        host, port = self.servers.split(":")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            return False
        return True

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def _command(self, *words: str) -> list[str]:
        return [*JAVA, "-cp", f"{self._jars}/*", *words]

    def _log(self) -> Any:
        return (self._folder / "log").open("ab")

    def _said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-4000:]


def _jars() -> Path:
    """Return where the broker's jars lie. Without them a test is skipped, aloud; in CI it fails."""
    tool = [sys.executable, str(REPOSITORY / "tools" / "kafka.py")]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    if done.returncode:
        if os.environ.get("SIDESTAGE_REQUIRE_TOOLS") == "1":
            pytest.fail(f"A Kafka broker is required here. {done.stderr}")
        pytest.skip(f"NOT TESTED: there is no Kafka broker here. {done.stderr}")
    return Path(done.stdout.strip())


def _is_made(admin: AdminClient, topic: NewTopic) -> bool:
    """Create a topic; return False if there is no broker for it: one that is slow counts as gone for a while."""
    try:
        admin.create_topics([topic])[topic.topic].result(START_SECONDS)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.INVALID_REPLICATION_FACTOR:
            raise
        return False
    return True


def _is_led(admin: AdminClient, topic: str | None = None) -> bool:
    try:
        topics = admin.list_topics(topic, timeout=2.0).topics.values()
    except KafkaException:
        return False
    parts = [each.partitions.values() for each in topics]
    return all(of_one and all(part.leader >= 0 for part in of_one) for of_one in parts)
