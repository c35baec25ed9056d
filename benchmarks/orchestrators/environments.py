"""A virtual environment of its own for every peer, kept between runs."""

import subprocess
import sys
from pathlib import Path

from benchmarks.orchestrators.peers import FOLDER, Peer
from benchmarks.peer_environments import installed


def prepare(peer: Peer, environments: Path) -> Path:
    """Return the folder of a peer's programs, installed as its requirements say.

    Raises FileNotFoundError if there is nothing to install them with, CalledProcessError if that fails.
    """
    if peer.environment is None:
        return Path(sys.executable).parent
    requirements = FOLDER / "requirements" / f"{peer.environment}.txt"
    return installed(requirements, environments / peer.environment)


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
