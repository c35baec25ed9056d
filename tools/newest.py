"""Run the unit tests, two halves at a time, on the newest interpreter found, if it is not the one in use."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = range(11, 14)
HALVES = (
    ("tests/unit/stream",),
    ("tests/unit", "--ignore", "tests/unit/stream"),
)


def main() -> int:
    """Find it, make an environment for it, run the unit tests there."""
    found = newest_interpreter()
    if found is None or found[0] == sys.version_info.minor:
        print(f"newest interpreter: Python 3.{sys.version_info.minor}, in use already")
        return 0
    minor, python = found
    print(f"newest interpreter: Python 3.{minor} ({python})")
    venv = ROOT / ".venv" / f"newest-3.{minor}"
    here = Path(sys.executable).parent
    if not (venv / "ready").exists():
        shutil.rmtree(venv, ignore_errors=True)
        run(python, "-m", "venv", str(venv))
        uv = (str(here / "uv"), "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"))
        run(*uv, "--require-hashes", "--requirement", str(ROOT / "requirements.lock"))
        run(*uv, "--no-deps", "--editable", str(ROOT))
        (venv / "ready").touch()
    return run_halves(str(venv / "bin" / "python"))


def run_halves(python: str) -> int:
    """Run both halves at the same time and print what each says; return 0 if both pass."""
    tests = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    with ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in HALVES]
        running = [
            stack.enter_context(
                subprocess.Popen([*tests, *half], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            )
            for half, output in zip(HALVES, said, strict=True)
        ]
        statuses = [half.wait() for half in running]
        for output in said:
            output.seek(0)
            print(output.read().decode(errors="replace"), flush=True)
    return next(filter(None, statuses), 0)


def newest_interpreter() -> tuple[int, str] | None:
    """Return the newest supported CPython on this machine that really starts."""
    candidates = {shutil.which(f"python3.{minor}") for minor in SUPPORTED}
    # pyenv shims exist for versions that are not selected, so its own folders are asked, too.
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates |= {str(path) for path in versions.glob("3.1[0-9]*/bin/python3")}
    working = [(minor_of(path), path) for path in sorted(filter(None, candidates))]
    return max(((minor, path) for minor, path in working if minor in SUPPORTED), default=None)


def minor_of(python: str) -> int:
    """Return an interpreter's minor version, 0 if it does not start."""
    done = subprocess.run([python, "-V"], capture_output=True, text=True, check=False)
    match = re.match(r"Python 3\.(\d+)\.", done.stdout)
    return int(match[1]) if match and done.returncode == 0 else 0


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
