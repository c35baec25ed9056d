"""Arrays and tables to another process and back: through a pipe, and in memory that is used again.

    python -m benchmarks.stream.buffers

Run it from the repository. It takes some seconds. Times are the best of several, and the processor time of
both processes, there and back; both ways are measured in turn, in one run.
"""

import os
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa

from sidestage.stream.workers.parcels import parcel
from sidestage.stream.workers.wire import Wire

ROUNDS = 40
SIZES = (100_000, 300_000, 1_000_000, 10_000_000)


class Way(NamedTuple):
    """A process that sends back what it is sent, and the wire to it."""

    wire: Wire
    pid: int

    def turn(self, value: Any) -> tuple[float, float]:
        """Send a value there and back; return the seconds that took, and those of both processors."""
        wall, cpu = time.perf_counter(), self._cpu()
        self.wire.send(parcel(value))
        self.wire.receive()
        return time.perf_counter() - wall, self._cpu() - cpu

    def _cpu(self) -> float:
        return time.process_time() + time.clock_gettime((~self.pid << 3) | 2)  # as clock_getcpuclockid(3)


def _echo(wire: Wire) -> NoReturn:
    while True:
        try:
            value = wire.receive()
        except EOFError:
            os._exit(0)
        answer = parcel(value)
        del value
        wire.send(answer)
        del answer


def _ways() -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for name in ("pipe", "memory"):
        ours, theirs = Pipe()
        pid = os.fork()
        if not pid:
            ours.close()
            for way in ways.values():
                way.wire.close()
            _echo(Wire(theirs, shares_memory=name == "memory"))
        theirs.close()
        ways[name] = Way(Wire(ours, shares_memory=name == "memory"), pid)
    return ways


def _array(size: int) -> Any:
    return np.ones(size, np.uint8)


def _table(size: int) -> Any:
    return pa.table({"one": np.ones(size // 16), "other": np.arange(size // 16)})


KINDS: dict[str, Callable[[int], Any]] = {"array": _array, "table": _table}


def main() -> None:
    """Measure, and print a table."""
    ways = _ways()
    out = sys.stdout.write
    out(f"{'':8}{'bytes':>12}{'pipe':>10}{'memory':>10}{'ratio':>7}{'CPU ratio':>11}\n")
    for kind, make in KINDS.items():
        for size in SIZES:
            value = make(size)
            turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    turns[name].append(way.turn(value))
            wall = {name: min(each[0] for each in found) for name, found in turns.items()}
            cpu = {name: min(each[1] for each in found) for name, found in turns.items()}
            ratios = wall["pipe"] / wall["memory"], cpu["pipe"] / cpu["memory"]
            times = "".join(f"{1e3 * wall[name]:>7.2f} ms" for name in ways)
            out(f"{kind:8}{size:>12,}{times}{ratios[0]:>7.1f}{ratios[1]:>11.1f}\n")
    for way in ways.values():
        way.wire.close()
        os.waitpid(way.pid, 0)


if __name__ == "__main__":
    main()
