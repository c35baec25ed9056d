"""A virtual environment for every library that is measured, and the programs in Go, kept between runs."""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peer_environments import installed, kept
from benchmarks.stream.engines import FOLDER

import sidestage

GO = FOLDER / "go"


def prepare(environment: str | None, environments: Path) -> Path:
    """Return the folder of an environment's programs, installed or built as it has to be.

    Raises ``FileNotFoundError`` or ``CalledProcessError`` where that cannot be done.
    """
    if environment is None:
        return Path(sys.executable).parent
    folder = environments / environment
    if environment == "go":
        return kept(folder, _sources(), lambda: _build(folder / "bin"))
    return installed(_requirements(environment), folder)


def versions(environment: str | None) -> dict[str, str]:
    """Return the versions that an environment was prepared with, by name."""
    if environment is None:
        return {"sidestage": sidestage.__version__}
    if environment == "go":
        modules = re.findall(r"^require (\S+) v(\S+)", (GO / "go.mod").read_text(), re.MULTILINE)
        return {"Go": _go_version(), **dict(modules)}
    return dict(re.findall(r"^([\w-]+)==(\S+)", _requirements(environment).read_text(), re.MULTILINE))


def _go_version() -> str:
    if shutil.which("go") is None:
        raise FileNotFoundError("there is no go: install golang-go, or Go's own toolchain")
    done = subprocess.run(["go", "env", "GOVERSION"], stdout=subprocess.PIPE, text=True, check=True, cwd=GO)
    return done.stdout.strip().removeprefix("go")


def _requirements(environment: str) -> Path:
    return FOLDER / "requirements" / f"{environment}.txt"


def _sources() -> str:
    """Return what tells one build from another: the toolchain and a digest of the sources."""
    digest = hashlib.sha256()
    for path in sorted(path for path in GO.rglob("*") if path.is_file()):
        digest.update(path.relative_to(GO).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{_go_version()} {digest.hexdigest()}\n"


def _build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", f"{folder}/", "./plumbing", "./enrichment"], check=True, cwd=GO)
