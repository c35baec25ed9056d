"""What plumbing costs: items through five trivial stages, in Sidestage, its peers and Go, in one run.

Every library is installed in a virtual environment of its own (see ``requirements``), the programs in Go are
built once (``go``), and each engine does the same in a program of its own (``NAME_cases.py``), which prints
one line of JSON. Within a case the engines take turns: all meet the same disturbances. Each time an engine
starts in a new process. A result that is not right is an error: the program ends with status 1, and the
table shows no figure.

Usage: python -m benchmarks.stream [--quick] [--only go,bytewax] [--cases plumbing,latency] [--json FILE]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.orchestrators.process import run, wait_until_quiet
from benchmarks.stream.engines import CASES, ENGINES, ENRICHMENT, EVENTS, FOLDER, MEMORY, QUICK, Engine
from benchmarks.stream.environments import prepare, versions
from benchmarks.stream.events import write_events
from benchmarks.stream.figures import LEADING, Measurement, figures_of, wrong
from benchmarks.stream.memory import flatness, watch
from benchmarks.stream.report import markdown, surroundings, write_json

ROOT = FOLDER.parents[1]


class Driver:
    """Measures one engine in one case at a time."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.found: list[Measurement] = []
        self.programs: dict[str | None, Path | str] = {}
        self.events = scratch / "events.jsonl"
        self.events_total = 0

    def prepare(self, engines: Sequence[Engine], cases: Sequence[str]) -> dict[str, str]:
        """Install what is needed and write the events; return the versions of all there is."""
        environments = self.options.environments.resolve()
        for name in dict.fromkeys(engine.environment for engine in engines):
            try:
                self.programs[name] = prepare(name, environments)
            except (OSError, subprocess.CalledProcessError) as error:
                self.programs[name] = f"not installed: {error}"
        if ENRICHMENT in cases and any(ENRICHMENT in engine.sizes for engine in engines):
            size = EVENTS // QUICK[ENRICHMENT] if self.options.quick else EVENTS
            self.events_total = write_events(self.events, size)
        prepared = [name for name, folder in self.programs.items() if isinstance(folder, Path)]
        return {what: number for name in prepared for what, number in versions(name).items()}

    def command(self, engine: Engine, case: str, folder: Path) -> list[str | Path]:
        """Return how a program is called: by its name, or its module with this repository on the path."""
        size = engine.size(case, quick=self.options.quick)
        words: list[str | Path] = [case, engine.variant, "--size", str(size)]
        words += ["--events", self.events] if case == ENRICHMENT else []
        if engine.compiled:
            return [folder / engine.program, *words]
        inherited = [os.environ.get("PYTHONPATH", "")] if engine.environment is None else []
        path = os.pathsep.join([str(ROOT), *filter(None, inherited)])
        module = f"benchmarks.stream.{engine.program}_cases"
        return ["env", f"PYTHONPATH={path}", folder / "python", "-m", module, *words]

    def measure(self, engine: Engine, case: str) -> Measurement:
        """Return what one run of a case says."""
        size = engine.size(case, quick=self.options.quick)
        programs = self.programs[engine.environment]
        if isinstance(programs, str):
            return Measurement(case, engine.name, size, {}, 0.0, programs)
        busy = wait_until_quiet(self.options.patience, self.options.busy)
        with tempfile.TemporaryDirectory(prefix="case-", dir=self.scratch) as name:
            command, folder = self.command(engine, case, programs), Path(name)
            if case == MEMORY:
                figures, error = self._watched(command, folder, size)
            else:
                ended = run(command, folder, self.options.timeout)
                error = ended.error or wrong(case, ended.answer, size, self.events_total)
                figures = {} if error else figures_of(case, ended.answer)
        return Measurement(case, engine.name, size, figures, busy, error)

    def _watched(
        self, command: Sequence[str | Path], folder: Path, size: int
    ) -> tuple[dict[str, float], str]:
        samples, error = watch(command, folder, self.options.timeout)
        if not error:
            lines = (folder / "output.log").read_text(errors="replace").splitlines()
            answers = [line for line in lines if line.startswith('{"case"')]
            error = wrong(MEMORY, json.loads(answers[-1]), size, 0) if answers else "no answer"
        if not error and not samples:
            error = "it ended before its memory was seen"
        return ({}, error) if error else (flatness(samples), "")

    def measure_all(self, engines: Sequence[Engine], cases: Sequence[str]) -> None:
        """Add what all runs say to ``found``; the engines take turns."""
        for case in cases:
            for turn in range(1 if case == MEMORY else self.options.repeats):
                for engine in engines:
                    if case not in engine.sizes:
                        continue
                    one = self.measure(engine, case)
                    self.found.append(one)
                    told = one.error or f"{LEADING[case]} {one.figures[LEADING[case]]:.4g}"
                    print(f"{case} {turn + 1} {engine.name:24} {told}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    names = [engine.name for engine in ENGINES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help="these, or all whose name begins so: " + ", ".join(names),
    )
    parser.add_argument("--cases", type=lambda text: text.split(","), default=CASES, help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="fewer items, one repeat, no waiting")
    parser.add_argument("--repeats", type=int, help="(default: 5, or 1 if quick)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a run may take")
    parser.add_argument("--patience", type=float, help="seconds to wait for a quiet machine (default: 60)")
    parser.add_argument(
        "--busy", type=float, default=10.0, help="percent that others may use when it is quiet"
    )
    parser.add_argument(
        "--environments", type=Path, default=ROOT / ".peers", help="where libraries and programs are kept"
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 5)
    options.patience = (0.0 if options.quick else 60.0) if options.patience is None else options.patience
    if unknown := {*options.cases} - {*CASES}:
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    for word in options.only or ():
        if not any(chosen(name, [word]) for name in names):
            parser.error(f"unknown: {word}; there are {', '.join(names)}")
    return options


def chosen(name: str, only: Sequence[str] | None) -> bool:
    """Return whether an engine is among those asked for, by its name or the first words of it."""
    return only is None or any(f"{name}-".startswith(f"{word}-") for word in only)


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up, too
    options = arguments()
    cases = [case for case in CASES if case in options.cases]
    engines = [
        engine for engine in ENGINES if chosen(engine.name, options.only) and {*cases} & {*engine.sizes}
    ]
    for engine in engines:
        if engine.missing:
            print(f"{engine.title}: {engine.program}_cases.py is missing, so it is left out")
    engines = [engine for engine in engines if not engine.missing]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        driver = Driver(options, Path(scratch))
        prepared = driver.prepare(engines, cases)
        usual = ["python", "-m", "benchmarks.stream.NAME_cases", "CASE", "VARIANT", "--size", "N"]
        about = surroundings(prepared, usual)
        try:
            driver.measure_all(engines, cases)
        except KeyboardInterrupt:
            print("interrupted: the tables hold what was measured until then", file=sys.stderr)
    print(markdown(engines, driver.found, about))
    if options.json:
        write_json(options.json, engines, driver.found, about)
    return 1 if any(one.error for one in driver.found) else 0


if __name__ == "__main__":
    sys.exit(main())
