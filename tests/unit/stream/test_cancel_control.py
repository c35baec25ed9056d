"""Who may tell a stream to cancel a part of itself: its own user, as the system knows it."""

import os
import socket

import pytest
from tests.unit.stream.places import Kept
from tests.unit.stream.test_cancel_worker import LONG, Hanging, started

from sidestage.errors import ConfigurationError, DefinitionError, SidestageError
from sidestage.stream import Stream
from sidestage.stream.failing import DeadLetter
from sidestage.stream.scopes import control
from sidestage.stream.scopes.control import Control, Question, asked, running

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED"), reason="who is at the other end can be asked on Linux only"
)


def test_a_worker_is_cancelled_by_whoever_the_system_says_it_is() -> None:
    hanging, sink, letters = Hanging(2), Kept(), list[DeadLetter]()
    flow = Stream(range(4)).map(hanging, timeout=LONG).to(sink)
    with Control("shop:flow") as it:
        assert it.refusal == ""
        with pytest.raises(SidestageError, match="Nothing runs yet"):
            asked(it.address, Question("stage", "decode"))
        engine = started(flow, hanging, fail="soft", dead_letters=letters.append)
        it.show(engine)
        found = running("shop:flow")
        assert (found.answer.pid, found.answer.workers[0].stage) == (os.getpid(), "decode")
        answer = asked(found.address, Question("worker", "decode", 1, "hangs"))
        assert answer.worker is not None
        assert answer.worker.item == "2"
        engine.join()
        with pytest.raises(DefinitionError, match="does not run"):
            asked(found.address, Question("stage", "decode"))
    assert f"(process {os.getpid()}): hangs" in str(letters[0].error)
    hanging.go_on.set()
    with pytest.raises(ConfigurationError, match="No stream shop:flow of yours runs here"):
        running("shop:flow")
    with pytest.raises(SidestageError, match="does not answer"):
        asked(it.address, Question())


def test_another_user_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with Control("shop:flow") as it:
        with monkeypatch.context() as patch:
            patch.setattr(control, "_other_end", lambda _connection: (1, os.getuid() + 1))
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(it.address)
                assert control._received(stranger) == b""
            with pytest.raises(SidestageError, match="belongs to somebody else"):
                asked(it.address, Question())
        with socket.socket(socket.AF_UNIX) as babbler:
            babbler.connect(it.address)
            babbler.sendall(b"hello")
            babbler.shutdown(socket.SHUT_WR)
            assert control._received(babbler) == b""
        assert running("shop:flow").address == it.address, "and it goes on listening"


def test_only_the_runs_of_this_user_are_found_and_several_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Control("shop:flow") as it, monkeypatch.context() as patch:
        with socket.socket(socket.AF_UNIX) as squatter:  # says nothing, and is passed over
            squatter.bind(f"\0sidestage-stream/{os.getuid()}/1/x")
            assert running("shop:flow").address == it.address
        patch.setattr(os, "getpid", lambda: 7)
        with Control("shop:flow") as other:
            assert running("shop:flow", 7).address == other.address
            with pytest.raises(ConfigurationError, match="2 processes run shop:flow: ") as error:
                running("shop:flow")
            assert "--pid" in error.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(ConfigurationError, match="No stream shop:flow"):
            running("shop:flow")


def test_what_cannot_listen_says_so_and_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    with Control("shop:flow") as it:
        other = Control("shop:flow")
        other.address = it.address
        with other:
            assert "in use" in other.refusal
    monkeypatch.setattr(control.sys, "platform", "darwin")
    with Control("shop:flow") as it:
        assert "does not say who" in it.refusal
