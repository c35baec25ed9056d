"""A worker's line to the store, which breaks: before a call reaches it, or after it was done."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, NoReturn, Protocol, Self

from sidestage.data.version import Version
from sidestage.errors import StoreError
from sidestage.store.records import Beat, Claim, Demand, Exchanged, Outcome, Run, RunState, Settled, Worker
from sidestage.testing.chaos import Chaos, Fault, Rates
from sidestage.testing.memory_claims import take
from sidestage.testing.memory_store import MemoryEar, MemoryStore
from sidestage.testing.memory_tables import Tables
from sidestage.testing.witness import Witness


class Crashed(BaseException):  # it is what happened to the process
    """The simulated process is no more. Nothing it does after this has any effect."""


class Weather(Protocol):
    """What a line needs of the world around it."""

    chaos: Chaos

    @property
    def is_unreachable(self) -> bool:
        """Whether nobody can reach the database now."""
        ...

    @property
    def is_told(self) -> bool:
        """Whether anybody wants to read the history."""
        ...

    def cut_off(self) -> None:
        """Make the database unreachable for a while."""
        ...

    def pause(self) -> None:
        """Let longer than a lease pass for everybody but the caller."""
        ...

    def ring(self, changes: int) -> None:
        """Wake those who wait for changes, if there were any."""
        ...

    def note(self, who: str, what: str) -> None:
        """Write the history down, if anybody wants to read it."""
        ...


Menu = tuple[tuple[float, Fault], ...]


class Menus(NamedTuple):
    """What may befall a call before it reaches the store, a heartbeat, and a call that was done."""

    call: Menu
    beat: Menu
    done: Menu


def _menus(rates: Rates) -> Menus:
    others: Menu = (
        (rates.crash, "crash before a store call"),
        (rates.pause, "pause before a store call"),
        (rates.unreachable, "database unreachable"),
    )
    return Menus(
        call=((rates.refused, "store call refused"), *others),
        beat=((rates.refused, "heartbeat lost"), *others),
        done=(
            (rates.lost, "acknowledgement lost"),
            (rates.crash, "crash between commit and acknowledgement"),
            (rates.pause, "pause after a store call"),
        ),
    )


class Line:
    """A connection that may break at each end of a call. ``is_dead`` once its process crashed.

    ``who`` uses it. One that is ``steady`` breaks only while nobody can reach the database.
    """

    def __init__(self, who: str, weather: Weather, tables: Tables, *, steady: bool = False) -> None:
        self._who = who
        self._weather = weather
        self._tables = tables
        self._steady = steady
        self._name = ""
        self._menus = _menus(weather.chaos.rates)
        self.is_dead = False

    def call(self, name: str) -> Self:
        """Begin a call; its faults come as the context is entered and left."""
        self._name = name
        return self

    def answered(self, answer: object) -> None:
        """Note what the store answered, whether or not the answer arrives."""
        if self._weather.is_told:
            self._weather.note(self._who, f"{self._name} -> {answer}")

    def __enter__(self) -> None:
        if self.is_dead:
            raise Crashed
        if self._weather.is_unreachable:
            self._fail("database unreachable")
        menu = self._menus.beat if self._name == "beat" else self._menus.call
        fault = None if self._steady else self._weather.chaos.befalls(menu)
        match fault:
            case None:
                return
            case "crash before a store call":
                self._die(fault)
            case "pause before a store call":
                self._pause()
            case "database unreachable":
                self._weather.cut_off()
                self._fail(fault)
            case _:
                self._fail(fault)

    def __exit__(self, kind: object, *_error: object) -> None:
        self._weather.ring(self._tables.changes)
        fault = None if kind or self._steady else self._weather.chaos.befalls(self._menus.done)
        match fault:
            case None:
                return
            case "crash between commit and acknowledgement":
                self._die(fault)
            case "pause after a store call":
                self._pause()
            case _:
                self._fail(fault)

    def _pause(self) -> None:
        name = self._name
        self._weather.note(self._who, f"{name}: pause")
        self._weather.pause()
        self._weather.note(self._who, f"{name}: goes on")
        self._name = name
        if self.is_dead:  # a power cut while it stood still
            raise Crashed

    def _die(self, fault: Fault) -> NoReturn:
        self._weather.note(self._who, f"{self._name}: {fault}")
        self.is_dead = True
        raise Crashed

    def _fail(self, fault: Fault) -> NoReturn:
        self._weather.note(self._who, f"{self._name}: {fault}")
        error = StoreError(f"The simulated store did not answer {self._name!r}.", hint="Try again.")
        error.transient = True
        raise error


class FaultyEar(MemoryEar):
    """An ear that may miss a call. Where ``can_wait``, the world wakes the worker that waits for it."""

    def __init__(self, tables: Tables, chaos: Chaos, *, can_wait: bool) -> None:
        super().__init__(tables)
        self._chaos = chaos
        self._can_wait = can_wait

    def fileno(self) -> int | None:
        """Return a descriptor, which nobody reads, if the worker can wait for it."""
        return 0 if self._can_wait else None

    def heard(self) -> bool:
        """Return whether anything may have changed since the last call, unless that was missed."""
        return super().heard() and not self._chaos.strikes(self._chaos.rates.deaf, "wake-up lost")


class FaultyStore(MemoryStore):
    """One worker's handle on the shared tables, through a line that breaks, before a witness."""

    def __init__(
        self, tables: Tables, line: Line, witness: Witness, chaos: Chaos, *, ear_can_wait: bool = True
    ) -> None:
        super().__init__(tables)
        self._line = line
        self._witness = witness
        self._chaos = chaos
        self._ear_can_wait = ear_can_wait

    def again(self) -> Self:
        """Return another handle, on the same line."""
        ear = self._ear_can_wait
        return type(self)(self._tables, self._line, self._witness, self._chaos, ear_can_wait=ear)

    def listen(self) -> MemoryEar:
        """Return an ear for changes that may interest a worker."""
        return FaultyEar(self._tables, self._chaos, can_wait=self._ear_can_wait)

    def claim(self, demand: Demand, now: datetime) -> tuple[Claim, ...]:
        """Claim, and have it witnessed."""
        with self._line.call("claim"):
            claims = super().claim(self._granted(demand), now)
            self._witness.claimed(claims, demand.lease)
            self._line.answered(claims)
            return claims

    def _granted(self, demand: Demand) -> Demand:
        """Return a demand as this store grants it."""
        return demand

    def beat(self, worker: Worker, *, lease: float, now: datetime) -> Beat:
        """Beat, and have it witnessed."""
        with self._line.call("beat"):
            beat = super().beat(worker, lease=lease, now=now)
            self._witness.beaten(beat, lease)
            self._line.answered(beat)
            return beat

    def settle(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        """Settle, and have it witnessed: what was done, and whether the worker knows."""
        with self._line.call("settle"):
            settled = self._commit(outcomes, now)
            self._witness.settled(outcomes, settled)
            self._line.answered(settled)
        self._witness.acknowledged(outcomes, settled)
        return settled

    def exchange(self, outcomes: Sequence[Outcome], demand: Demand, now: datetime) -> Exchanged:
        """Settle and claim, and have both witnessed."""
        with self._line.call("exchange"):
            settled = self._commit(outcomes, now)
            claims = take(self._tables, self._granted(demand), now)
            self._witness.settled(outcomes, settled)
            self._witness.claimed(claims, demand.lease)
            self._line.answered((settled, claims))
        self._witness.acknowledged(outcomes, settled)
        return Exchanged(settled, claims)

    def _commit(self, outcomes: Sequence[Outcome], now: datetime) -> tuple[Settled, ...]:
        return super().settle(outcomes, now)

    def abandon(self, owner: str, now: datetime, *, run: int | None = None) -> int:
        """Abandon, and have it witnessed."""
        with self._line.call("abandon"):
            count = super().abandon(owner, now, run=run)
            self._witness.abandoned(owner, run)
            self._line.answered(count)
            return count

    def end_run(self, run_id: int, state: RunState, now: datetime) -> None:
        """End a run, and have it witnessed."""
        with self._line.call("end_run"):
            super().end_run(run_id, state, now)
            self._witness.ended(run_id, state)
            self._line.answered(state)

    def reopen_run(self, run_id: int, *, driver: str | None = None, alone: bool = False) -> int:
        """Take a run up again, and have it witnessed."""
        with self._line.call("reopen_run"):
            left = super().reopen_run(run_id, driver=driver, alone=alone)
            self._witness.reopened(run_id)
            self._line.answered(left)
            return left

    def drain(self, worker: str) -> bool:
        """Drain a worker."""
        with self._line.call("drain"):
            return super().drain(worker)

    def open_runs(self) -> tuple[Run, ...]:
        """Return the runs that have not ended."""
        with self._line.call("open_runs"):
            return super().open_runs()

    def next_due(self) -> float | None:
        """Return the seconds until something is due."""
        with self._line.call("next_due"):
            return super().next_due()

    def made(self, run_id: int, steps: Collection[str]) -> dict[str, str]:
        """Return what steps made."""
        with self._line.call("made"):
            return super().made(run_id, steps)

    def versions(self, ids: Iterable[str]) -> dict[str, Version]:
        """Return versions."""
        with self._line.call("versions"):
            return super().versions(ids)
