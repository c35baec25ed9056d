"""A virtual environment of its own for every peer, kept between runs."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.orchestrators.peers import FOLDER, Peer


def prepare(peer: Peer, environments: Path) -> Path:
    """Return the folder of a peer's programs, installed as its requirements say."""
    if peer.environment is None:
        return Path(sys.executable).parent
    requirements = FOLDER / "requirements" / f"{peer.environment}.txt"
    folder = environments / peer.environment
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        if find_spec("uv") is None:
            raise SystemExit("uv is missing in this environment: python -m pip install uv")
        print(f"installing {peer.environment} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode"]
        subprocess.run(
            [*install, "--python", folder / "bin" / "python", "--requirement", requirements], check=True
        )
        installed.write_text(requirements.read_text())
    return folder / "bin"


def version(peer: Peer, programs: Path) -> str:
    """Return the version of a peer, as its own interpreter knows it."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    done = subprocess.run(
        [programs / "python", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "from a source tree"
