"""States in files, of which a transaction names the one that counts; the broker is a fake."""

import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stream.places import Parts
from tests.unit.stream.test_transactions import OFTEN, Ledger, LedgerWriter

from sidestage.connectors.kafka_versions import Version, Versions
from sidestage.errors import DataError
from sidestage.stream import (
    EventTime,
    Progress,
    Reader,
    Stream,
    WindowPlan,
    count,
    tumbling,
)


class Topic(Ledger):
    """A topic, and the offset that names a version: both change at once, as Kafka's transactions have it."""

    def __init__(self, folder: Path, plan: Sequence[str] = ()) -> None:
        super().__init__(plan)
        self.folder = folder
        self.named: Version | None = None

    def open(self) -> "TopicWriter":
        super().open()
        return TopicWriter(self)

    def progress(self) -> Progress:
        return Versions(self.folder, "me").load(self.named)


class TopicWriter(LedgerWriter):
    def __init__(self, place: Topic) -> None:
        super().__init__(place, place.fence)
        self._topic = place
        self._versions = Versions(place.folder, "me")
        self._versions.begin(place.named)

    def commit(self, progress: Progress, readers: Mapping[str, Reader[Any]]) -> None:
        version = self._versions.write(progress)
        before = self._topic.kept
        try:
            super().commit(progress, readers)
        finally:
            if self._topic.kept is not before:  # whether or not the answer came
                self._topic.named = version
        self._versions.note_committed(version)


def per_ten(disorder: float = 60) -> WindowPlan:
    time = EventTime(at=float, disorder=disorder)
    return WindowPlan(windows=tumbling(10), aggregate=count(), key=lambda n: n % 3, time=time)


@settings(max_examples=30, deadline=None)
@given(
    plan=st.lists(st.sampled_from(["fine", "fine", "lost", "unanswered"]), max_size=20),
    times=st.lists(st.integers(0, 50), max_size=40),
)
def test_windows_are_counted_once_whatever_becomes_of_commits(plan: list[str], times: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Topic(Path(folder), plan)

        Stream(Parts({"a": times})).window(per_ten()).to(place).run(settings=OFTEN)

        counted = Counter({(each.key, each.start): each.value for each in place.committed})
        assert len(place.committed) == len(counted)
        assert counted == Counter((n % 3, n // 10 * 10.0) for n in times)
        assert place.progress() == msgspec.json.decode(place.kept, type=Progress)


def test_windows_are_gone_on_with_by_the_next_process(tmp_path: Path) -> None:
    place = Topic(tmp_path)

    class Unending(Parts):
        def open(self, resume: Any) -> Any:
            reader = super().open(resume)
            read, stop = reader.read, threading.Event()
            reader.stop = stop.set
            reader.read = lambda limit, wait: read(limit, wait) or (None if stop.wait(0.001) else ())
            return reader

        def committing(self) -> None:
            if self.committed == {"a": 3}:
                engine.drain()

    engine = Stream(Unending({"a": [1, 2, 11]})).window(per_ten()).to(place).engine(settings=OFTEN)
    engine.run()
    assert place.committed == []

    Stream(Parts({"a": [1, 2, 11, 3, 12]})).window(per_ten()).to(place).run()

    assert Counter({(each.key, each.start): each.value for each in place.committed}) == Counter(
        (n % 3, n // 10 * 10.0) for n in (1, 2, 11, 3, 12)
    )


def test_a_stream_of_another_shape_is_refused(tmp_path: Path) -> None:
    place = Topic(tmp_path)
    Stream(Parts({"a": [1]})).window(per_ten(), name="ten").to(place).run()
    with pytest.raises(DataError, match="holds windows of ten"):
        Stream(Parts({"a": [1, 2]})).window(per_ten(), name="minutes").to(place).run()


def kept(number: int) -> Progress:
    return Progress(number, {"source": {"a": number}}, {"window": bytes(number)})


def written(versions: Versions, number: int, *, committed: bool = True) -> Version:
    version = versions.write(kept(number))
    if committed:
        versions.note_committed(version)
    return version


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_version_goes_when_two_later_ones_are_committed(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "not" / "there", "me")
    assert versions.begin(None) == Progress(0, {})
    first, second = written(versions, 1), written(versions, 2)
    assert names(tmp_path / "not" / "there") == {first.file, second.file}
    third = written(versions, 3)
    assert names(tmp_path / "not" / "there") == {second.file, third.file}
    assert (first.count, third.count) == (1, 3)
    assert Versions(tmp_path / "not" / "there", "me").load(third) == kept(3)


def test_what_was_not_committed_goes_with_the_next_commit_and_not_before(tmp_path: Path) -> None:
    versions = Versions(tmp_path, "me")
    versions.begin(None)
    first = written(versions, 1)
    second = written(versions, 2, committed=False)  # nobody was told whether it is

    for named in (first, second):
        assert Versions(tmp_path, "me").begin(named).number == named.count
    assert {first.file, second.file} <= names(tmp_path)

    following = Versions(tmp_path, "me")
    following.begin(first)
    again = written(following, 2)
    assert names(tmp_path) == {first.file, again.file}


def test_who_was_fenced_off_removes_nothing_that_counts(tmp_path: Path) -> None:
    late, new = Versions(tmp_path, "me"), Versions(tmp_path, "me")
    late.begin(None)
    first = written(late, 1)
    second = written(late, 2, committed=False)  # it is committed; the process stands still before it hears
    assert new.begin(second) == kept(2)
    third = written(new, 3, committed=False)
    late.note_committed(second)
    assert {second.file, third.file} <= names(tmp_path)
    new.note_committed(third)
    assert names(tmp_path) == {second.file, third.file}
    assert first.file not in names(tmp_path)


def test_a_first_commit_that_was_not_made_leaves_nothing_that_counts(tmp_path: Path) -> None:
    first = Versions(tmp_path, "me")
    first.begin(None)
    written(first, 1, committed=False)
    assert Versions(tmp_path, "me").begin(None) == Progress(0, {})


def test_states_of_which_nothing_is_committed_any_more_are_not_passed_over(tmp_path: Path) -> None:
    versions = Versions(tmp_path, "me")
    versions.begin(None)
    written(versions, 1)
    written(versions, 2)
    with pytest.raises(
        DataError, match="holds version 2 of the state of 'me', but Kafka knows of none"
    ) as told:
        Versions(tmp_path, "me").begin(None)
    assert "--reset-offsets" in told.value.hint


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.unlink(), "it is not there"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"number", b"nunber")), "another one"),
        (lambda path: path.write_bytes(b""), "truncated"),
    ],
)
def test_a_committed_state_that_is_lost_or_damaged_is_told_of(tmp_path: Path, harm: Any, says: str) -> None:
    versions = Versions(tmp_path, "me")
    versions.begin(None)
    version = written(versions, 1)
    harm(tmp_path / version.file)
    with pytest.raises(DataError, match=f"to which the committed offsets of 'me' belong.*{says}") as told:
        Versions(tmp_path, "me").begin(version)
    assert "give the sink another identity" in told.value.hint


def test_a_whole_file_that_is_not_the_committed_one_is_refused(tmp_path: Path) -> None:
    versions = Versions(tmp_path, "me")
    versions.begin(None)
    first, second = written(versions, 1), written(versions, 2)
    (tmp_path / second.file).write_bytes((tmp_path / first.file).read_bytes())
    with pytest.raises(DataError, match="its checksum is another one"):
        versions.load(second)


def test_writers_whose_names_are_alike_share_a_folder(tmp_path: Path) -> None:
    found = {}
    for identity in ("a", "a-1", "a-0000000001", "..", "a/b"):
        versions = Versions(tmp_path, identity)
        versions.begin(None)
        written(versions, 1)
        found[identity] = written(versions, 2)
    for identity, version in found.items():
        mine = Versions(tmp_path, identity)
        assert mine.begin(version) == kept(2)
        written(mine, 3)
    assert len(names(tmp_path)) == 2 * len(found)


def test_a_folder_that_cannot_be_written_to_ends_the_stream_before_the_commit(tmp_path: Path) -> None:
    place = Topic(tmp_path / "gone")
    stream = Stream(Parts({"a": [1]})).window(per_ten()).to(place)
    opened = place.open

    def then_remove() -> TopicWriter:
        writer = opened()
        place.folder.rmdir()
        return writer

    place.open = then_remove  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError):
        stream.run()
    assert place.committed == []
    assert place.named is None
