"""Virtual environments of what is measured beside Sidestage, kept between runs."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def installed(requirements: Path, folder: Path) -> Path:
    """Return the folder of an environment's programs, with what a file of requirements asks for.

    Raises FileNotFoundError if there is nothing to install it with, CalledProcessError if that fails.
    """

    def install() -> None:
        if find_spec("uv") is None:
            raise FileNotFoundError("uv is missing in this environment: python -m pip install uv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        words = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode"]
        subprocess.run(
            [*words, "--python", folder / "bin" / "python", "--requirement", requirements], check=True
        )

    return kept(folder, requirements.read_text(), install)


def kept(folder: Path, wanted: str, make: Callable[[], None]) -> Path:
    """Return a folder's programs, made anew unless it was last made for the same that is ``wanted``."""
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {folder.name} into {folder}", file=sys.stderr, flush=True)
        make()
        stamp.write_text(wanted)
    return folder / "bin"
