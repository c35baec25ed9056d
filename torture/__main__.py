"""``python -m torture``: inject faults, print one row for each family, exit 1 if a promise was broken."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from torture import clocks, databases, diskfull, ioerrors, kills, mounts, pauses, powercuts
from torture.report import Row, table

Family = Callable[[int, int, Path], Row]

FAMILIES: dict[str, tuple[Family, int, int]] = {
    # name: what runs it, how many faults in the whole campaign, and in its short form
    "kills": (kills.run, 2000, 24),
    "powercuts": (powercuts.run, 500, 24),
    "ioerrors": (ioerrors.run, 140, 7),
    "diskfull": (diskfull.run, 30, 1),
    "clock": (clocks.run, 20, 2),
    "postgres": (databases.run, 50, 3),
    "pause": (pauses.run, 60, 5),
}
SEED = 20260101
REQUIRE = "SIDESTAGE_REQUIRE_TOOLS"
"""Environment variable that makes a tool that is not installed a failure (1): for CI, which installs them."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; return 0 if every promise was kept and every control was found guilty."""
    options = _options(arguments)
    # Otherwise the time to compile modules would be taken for Sidestage's time to start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    mounts.keep_apart()
    # So that whoever stops it leaves no mounts, servers and processes behind.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    rows = []
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(folder) / "bytecode"))
        print(machine(options.seed), flush=True)
        for name in options.only:
            family, whole, short = FAMILIES[name]
            count = options.counts.get(name) or (short if options.short else whole)
            print(f"{name}: {count} ...", file=sys.stderr, flush=True)
            rows.append(_timed(name, family, count, options.seed, Path(folder)))
    print(table(rows))
    for row in rows:
        _tell(row)
    if options.json:
        found = {"machine": machine(options.seed), "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(row.is_good for row in rows) else 1


def machine(seed: int) -> str:
    """Return where the campaign ran, how busy that was, and its seed."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} processors, {platform.platform()}, Python {platform.python_version()}, "
        f"load {load} (1, 5, 15 minutes), seed {seed}"
    )


def _timed(name: str, family: Family, count: int, seed: int, folder: Path) -> Row:
    started = time.monotonic()
    try:
        row = family(count, seed, folder)
    except Exception:  # noqa: BLE001  # the other families are to be heard all the same
        row = Row(name)
        row.findings.stuck.append(f"the campaign itself failed: {traceback.format_exc()}")
    row.seconds = time.monotonic() - started
    if row.missing and os.environ.get(REQUIRE) == "1":
        row.findings.stuck.append(f"tools are required here, but it {row.missing}")
    return row


def _tell(row: Row) -> None:
    """Print what a row has no room for; what was skipped is said aloud."""
    if row.skipped:
        print(f"\n{row.family} WAS SKIPPED: {row.skipped}")
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(row.injected.items()))
    print(f"\n{row.family}: {kinds}; {len(row.recovery)} recoveries measured; {row.seconds:.0f} s")
    for note in row.notes:
        print(f"  {note}")
    for finding in row.findings.all():
        print(f"  BROKEN {finding}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--only", type=_names, default=list(FAMILIES), help=f"some of: {','.join(FAMILIES)}")
    parser.add_argument("--short", action="store_true", help="few faults of each kind: about a minute")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found there")
    words = {"kills": "kills", "cuts": "powercuts", "errors": "ioerrors", "fills": "diskfull"}
    words |= {"jumps": "clock", "stops": "postgres", "pauses": "pause"}
    for word, name in words.items():
        parser.add_argument(f"--{word}", type=int, metavar="N", help=f"how many faults of {name}")
    options = parser.parse_args(arguments)
    options.counts = {name: getattr(options, word) for word, name in words.items()}
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such family: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
