"""Checkpoints: the newest that is whole counts, whatever was cut off or overwritten."""

import errno
import itertools
import os
from pathlib import Path

import pytest
from tests.unit.stream.places import Kept

from sidestage.errors import DataError, DefinitionError
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.stream import Stream


def saved(path: Path, *positions: int) -> Checkpoint:
    checkpoint = Checkpoint(path)
    for position in positions:
        checkpoint.save("clicks", {"topic/0": position})
    return checkpoint


def test_what_was_saved_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    assert Checkpoint(path).positions("clicks") == {}
    first = saved(path, 5, 7)
    first.save("clicks", {"topic/1": "page 3"})
    first.save("orders", {"all": 9})
    again = Checkpoint(path)
    assert again.positions("clicks") == {"topic/0": 7, "topic/1": "page 3"}
    assert again.positions("orders") == {"all": 9}
    assert again.progress.number == 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint", "checkpoint.previous"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100, b'{"version":1,"checksum":"x","progress":{}}'])
def test_the_one_before_counts_if_the_newest_is_damaged(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    path.write_bytes(damage)
    again = Checkpoint(path)
    assert again.positions("clicks") == {"topic/0": 5}
    again.save("clicks", {"topic/0": 6})
    assert Checkpoint(path).positions("clicks") == {"topic/0": 6}


def position(path: Path) -> object:
    try:
        return Checkpoint(path).positions("clicks")["topic/0"]
    except DataError as error:
        return "later release" if "later release" in error.message else error


def test_every_byte_of_a_checkpoint_counts(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert position(path) in (5, 7, "later release"), at
        path.write_bytes(whole[:at])
        assert Checkpoint(path).positions("clicks") == {"topic/0": 5}


def test_a_crash_between_the_two_names_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    path.replace(tmp_path / "checkpoint.previous")
    assert Checkpoint(path).positions("clicks") == {"topic/0": 7}


def test_two_damaged_ones_are_said(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = saved(path, 5, 7)
    path.write_bytes(b"?")
    checkpoint.previous.write_bytes(b"?")
    with pytest.raises(DataError, match="cannot be read") as error:
        Checkpoint(path)
    assert "Move the files away" in error.value.hint
    path.write_bytes(b'{"version":2,"checksum":"x","progress":{}}')
    with pytest.raises(DataError, match="later release"):
        Checkpoint(path)


def test_a_damaged_one_does_not_take_the_place_of_the_one_that_was_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    path.write_bytes(b"cut off")
    again = Checkpoint(path)
    replace = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            again.save("clicks", {"topic/0": 6})
    assert Checkpoint(path).positions("clicks") == {"topic/0": 5}


def test_whoever_finds_that_another_stream_wrote_to_the_file_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    first = saved(path, 5)
    second = Checkpoint(path)
    first.save("clicks", {"topic/0": 6})
    with pytest.raises(DataError, match="Another stream has written") as raised:
        second.save("orders", {"all": 1})
    assert "running twice" in str(raised.value.hint)
    first.save("clicks", {"topic/0": 7})
    assert Checkpoint(path).positions("clicks") == {"topic/0": 7}
    assert Checkpoint(path).positions("orders") == {}


def test_a_file_that_was_removed_or_copied_in_place_is_no_other_stream(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = saved(path, 5, 6)
    path.write_bytes(path.read_bytes())
    checkpoint.save("clicks", {"topic/0": 7})
    path.unlink()
    checkpoint.save("clicks", {"topic/0": 8})
    assert Checkpoint(path).positions("clicks") == {"topic/0": 8}


@pytest.mark.parametrize("name", ["nowhere/checkpoint", "."])
def test_a_checkpoint_that_cannot_be_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be a file"):
        Checkpoint(tmp_path / name)


def test_two_streams_that_run_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    first = Stream(itertools.count(), name="numbers").to(Kept()).engine(checkpoint=checkpoint)
    first.start()
    try:
        with pytest.raises(DefinitionError, match="used by another stream"):
            Stream([1, 2, 3], name="others").to(Kept()).run(checkpoint=checkpoint)
    finally:
        first.cancel()
        first.join()
    assert Stream([1, 2, 3], name="others").to(Kept()).run(checkpoint=checkpoint).complete


def test_a_full_disk_is_told_with_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(tmp_path / "checkpoint", 5)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint'"):
            checkpoint.save("clicks", {"topic/0": 6})
    checkpoint.save("clicks", {"topic/0": 6})
    assert Checkpoint(tmp_path / "checkpoint").positions("clicks") == {"topic/0": 6}
