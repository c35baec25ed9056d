"""Run the unit tests on the newest interpreter found, if that is not the one in use."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = range(11, 14)


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
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit")
    return subprocess.run([str(venv / "bin" / "python"), *tests], cwd=ROOT, check=False).returncode


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
