"""What orchestration costs: Sidestage, its peers, and the least that durable tasks can cost, in one run.

Every tool is installed in a virtual environment of its own (see ``requirements``) and does the same in a
script of its own (``NAME_cases.py``). Within a case the tools take turns: all meet the same disturbances.
Each time a tool starts from nothing: a new process, a new folder, a new database. When it is up and warm, it
is timed inside its process, from the trigger to the end of the last task.

Usage: python -m benchmarks.orchestrators [--peers luigi,dbos] [--cases chain,fanout] [--quick] [--json FILE]
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.orchestrators.environments import prepare, version
from benchmarks.orchestrators.measurement import Measurement
from benchmarks.orchestrators.peers import CASES, FOLDER, MEMORY, PEERS, START, Peer
from benchmarks.orchestrators.process import run, started, wait_until_quiet
from benchmarks.orchestrators.report import markdown, surroundings, write_json
from benchmarks.orchestrators.server import drop_database, new_database, server_version, syncing_postgresql

ROOT = FOLDER.parents[1]
START_TIMEOUT = 60.0


class Driver:
    """Measures one peer in one case at a time."""

    def __init__(self, options: argparse.Namespace, programs: dict[str, Path], server: str | None) -> None:
        self.options = options
        self.programs = programs
        self.server = server
        self.found: list[Measurement] = []

    def measure(self, peer: Peer, case: str) -> list[Measurement]:
        """Return what one run of a case says."""
        busy = wait_until_quiet(self.options.patience, self.options.busy)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.options.scratch) as name:
            if case == START:
                return self._start(peer, Path(name), busy)
            return self._case(peer, case, Path(name), busy)

    def _case(self, peer: Peer, case: str, folder: Path, busy: float) -> list[Measurement]:
        script = "fanout" if case == MEMORY else case
        size = peer.size(script, quick=self.options.quick)
        command: list[str | Path] = [self.programs[peer.name] / "python", "-P", FOLDER / peer.script, script]
        command += ["--size", str(size), "--folder", folder, *(["--hold"] if case == MEMORY else [])]
        with ExitStack() as stack:
            if peer.postgresql:
                assert self.server is not None
                command += ["--database", new_database(self.server, folder.name)]
                stack.callback(drop_database, self.server, folder.name)
            ended = run(command, folder, self.options.timeout, watch=case == MEMORY)
        note = str(ended.answer.get("note", ""))
        if case == MEMORY:
            values = {"idle": ended.idle, "peak": ended.peak}
        else:
            values = {case: float(ended.answer.get("seconds", 0))}
        return [
            Measurement(metric, peer.name, 1 if metric == "idle" else size, value, busy, note, ended.error)
            for metric, value in values.items()
        ]

    def _start(self, peer: Peer, folder: Path, busy: float) -> list[Measurement]:
        programs = self.programs[peer.name]
        commands = {"import": ["python", "-c", f"import {peer.imports}"], "help": [*peer.program]}
        if peer.name == peer.limit:
            commands["import"] = [*peer.program]  # the least is Python itself, without any import
        found = []
        for metric, (program, *words) in commands.items():
            self._seconds([programs / program, *words], folder)  # fills the disk cache, compiles
            seconds, error = self._seconds([programs / program, *words], folder)
            found.append(Measurement(metric, peer.name, 1, seconds, busy, "", error))
        return found

    def _seconds(self, command: Sequence[str | Path], folder: Path) -> tuple[float, str]:
        begun = time.perf_counter()
        with started(command, folder, subprocess.DEVNULL) as process:
            try:
                status = process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                return 0.0, f"stopped after {START_TIMEOUT:.0f} s"
            return time.perf_counter() - begun, f"status {status}" if status else ""

    def measure_all(self, peers: Sequence[Peer], cases: Sequence[str]) -> None:
        """Add what all runs say to ``found``; the peers take turns."""
        for case in cases:
            for turn in range(1 if case == MEMORY else self.options.repeats):
                for peer in peers:
                    if turn and case != START and not peer.repeats:
                        continue
                    for one in self.measure(peer, case):
                        self.found.append(one)
                        told = one.error or f"{one.value:.4g}"
                        print(f"{one.metric:10} {one.peer:20} {told}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orchestrators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", type=lambda text: text.split(","), default=names, help=", ".join(names))
    parser.add_argument("--cases", type=lambda text: text.split(","), default=CASES, help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="less of what takes minutes, extrapolated")
    parser.add_argument("--repeats", type=int, default=5, help="of the quick tools (default: 5)")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a case may take")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a quiet machine")
    parser.add_argument(
        "--busy", type=float, default=10.0, help="percent that others may use when it is quiet"
    )
    parser.add_argument(
        "--environments", type=Path, default=ROOT / ".peers", help="where tools are installed"
    )
    parser.add_argument(
        "--scratch", type=Path, help="where tools keep their state (default: temporary files)"
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    for given, known in ((options.peers, names), (options.cases, CASES)):
        if unknown := {*given} - {*known}:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up, too
    options = arguments()
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    peers = [peer for peer in chosen if not peer.missing]
    for peer in chosen:
        if peer.missing:
            print(f"{peer.title}: {peer.script} is missing, so it is left out")
    environments = options.environments.resolve()
    try:
        programs = {peer.name: prepare(peer, environments) for peer in peers}
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    versions = {peer.package: version(peer, programs[peer.name]) for peer in peers if peer.package}
    for peer in peers:
        if options.quick and (cut := {case: peer.cut[case] for case in options.cases if case in peer.cut}):
            print(f"{peer.title}, cut short: " + ", ".join(f"{case} {size}" for case, size in cut.items()))
    about = surroundings(versions)
    with ExitStack() as stack:
        server = None
        if any(peer.postgresql for peer in peers):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch))
            server = stack.enter_context(syncing_postgresql(Path(folder)))
            about.append(f"PostgreSQL {server_version(server)}")
        cases = [case for case in CASES if case in options.cases]
        driver = Driver(options, programs, server)
        try:
            driver.measure_all(peers, cases)
        except KeyboardInterrupt:
            print("interrupted: the tables hold what was measured until then", file=sys.stderr)
    found = driver.found
    print(markdown(peers, cases, found, about))
    if options.json:
        write_json(options.json, peers, found, about)
    return 1 if any(one.error for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
