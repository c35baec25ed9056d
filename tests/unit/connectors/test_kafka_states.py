"""Whether a state is that of the parts that are read: the group is a fake."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from sidestage.connectors.failure import ConnectorError, PartsLost
from sidestage.connectors.kafka import KafkaTransactionalSink
from sidestage.connectors.kafka_states import KafkaStates
from sidestage.connectors.kafka_versions import Version
from sidestage.errors import DataError, DefinitionError
from sidestage.stream import EventTime, Stream, WindowPlan, count, tumbling


class Group:
    """A reader that holds ``parts``, and what its group has committed: offsets, perhaps with a text."""

    def __init__(self, parts: Iterable[str], **committed: Any) -> None:
        self.parts = set(parts)
        self.committed = {name.replace("_", "/"): at for name, at in committed.items()}
        self.asked = 0

    def ask_group(self) -> dict[str, TopicPartition]:
        self.asked += 1
        return {part: TopicPartition("t", int(part[2:]), *at) for part, at in self.committed.items()}

    def holds(self, parts: Iterable[str]) -> bool:
        return self.parts.issuperset(parts)


def states(folder: Path, identity: str = "me") -> KafkaStates:
    return KafkaStates(KafkaTransactionalSink(servers="localhost:1", topic="out", identity=identity), folder)


NONE = -1001
MINE = '{"identity":"me"}'
BOTH = ["t/0", "t/1"]


@pytest.mark.parametrize(
    ("committed", "known"),
    [
        ({"t_0": (NONE,), "t_1": (NONE,)}, {}),  # a first start
        ({"t_0": (7,), "t_1": (NONE,)}, {}),  # the first one with state
        ({"t_0": (7, "of another client"), "t_1": (3, "{}")}, {}),
        ({"t_0": (7, MINE), "t_1": (3, MINE)}, {"t/0": 7, "t/1": 3}),
        ({"t_0": (7, MINE), "t_1": (NONE,)}, {"t/0": 7}),  # a new part
        ({"t_0": (7,), "t_1": (NONE,)}, {"t/0": 7}),  # moved to where it was
    ],
)
def test_a_state_goes_on_from_the_offsets_that_it_belongs_to(
    tmp_path: Path, committed: Any, known: Any
) -> None:
    group = Group(BOTH, **committed)
    checked = states(tmp_path)
    for membership in (b"1", b"1", b"2"):
        checked.require_whole("orders", group, membership, known)  # type: ignore[arg-type]
    assert group.asked == 2


@pytest.mark.parametrize(
    ("committed", "known", "says"),
    [
        ((5,), 7, "offset 5 of t/0, but the state holds what lies before 7: the group was moved"),
        ((9, MINE), 7, "offset 9 of t/0, but the state holds what lies before 7"),
        ((NONE,), 7, "no offset of t/0, but the state holds"),
        ((7, MINE), None, "the state holds nothing of it: it is lost, or the source was renamed"),
        ((7, '{"identity":"you"}'), None, "up to which 'you' has counted"),
        ((7, '{"identity":"you"}'), 7, "up to which 'you' has counted"),
    ],
)
def test_a_state_that_is_not_that_of_the_offsets_is_refused(
    tmp_path: Path, committed: Any, known: Any, says: str
) -> None:
    group = Group(BOTH, t_0=committed, t_1=(NONE,))
    with pytest.raises(DataError, match=says) as told:
        states(tmp_path).require_whole(
            "orders",
            group,
            b"1",
            {} if known is None else {"t/0": known},  # type: ignore[arg-type]
        )
    assert told.value.message.startswith("The state of 'me' is not that of what 'orders' reads: ")
    assert "To begin anew" in told.value.hint


def test_parts_that_others_read_and_a_group_that_is_away_can_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(PartsLost, match="Not all of the parts t/0, t/1 are read here"):
        states(tmp_path).require_whole(
            "orders",
            Group(["t/0"], t_0=(NONE,), t_1=(NONE,)),
            b"1",
            {},  # type: ignore[arg-type]
        )

    class Away(Group):
        def ask_group(self) -> dict[str, TopicPartition]:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    with pytest.raises(ConnectorError) as told:
        states(tmp_path).require_whole("orders", Away(BOTH), b"1", {})  # type: ignore[arg-type]
    assert told.value.transient


def test_offsets_say_whose_they_are_and_which_version_counts(tmp_path: Path) -> None:
    mine, version = states(tmp_path, "é"), Version(12, "e.state", "abc")
    marked = mine.marked({"t/1": 5})[0]
    assert (marked.topic, marked.partition, marked.offset, marked.metadata) == (
        *("t", 1, 5),
        '{"identity":"é"}',
    )
    named = mine.place_of(version)
    assert (named.topic, named.partition, named.offset) == ("out", 0, 12)
    assert mine._version(named) == version
    assert mine._version(TopicPartition("out", 0, NONE)) is None
    with pytest.raises(DataError, match=r"The group é\.state holds None, which names no state"):
        mine._version(TopicPartition("out", 0, 3))


def test_without_a_folder_windows_are_refused_before_anything_begins() -> None:
    plan = WindowPlan(windows=tumbling(10), aggregate=count(), time=EventTime(at=float))
    sink = KafkaTransactionalSink(servers="localhost:1", topic="out", identity="me")
    with pytest.raises(DefinitionError, match="cannot keep the state of windows") as told:
        Stream([1]).window(plan).to(sink).run()
    assert "state=" in told.value.hint
