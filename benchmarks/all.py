"""Run all benchmarks, one after the other, each in a process of its own.

Usage: python benchmarks/all.py [--quick]
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
QUICK = {"compare": ["--rows", "100000", "--rounds", "1"]}
"""What the short form of a benchmark is, unless it is ``--quick``."""

NAMES = ("startup", "publish", "promote", "overhead", "backlog", "compare")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks.")
    parser.add_argument("--quick", action="store_true", help="the short form of each")
    options = parser.parse_args()
    failed = []
    for name in NAMES:
        words = QUICK.get(name, ["--quick"]) if options.quick else []
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(FOLDER / f"{name}.py"), *words], check=False).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"did not end as they should: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
