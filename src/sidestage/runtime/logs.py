"""Where what a task prints is kept."""

import re
from pathlib import Path

from sidestage.data.names import file_key

# Read by people at night, so spelt as the step where every file system can.
_PLAIN = re.compile(r"\w[\w.@-]{0,149}", re.ASCII)


def attempt_log(folder: Path, run: int, step: str, attempt: int) -> Path:
    """Return the file for one attempt's output; it exists only if something was printed."""
    name = step if _PLAIN.fullmatch(step) else file_key(step)
    return folder / f"run-{run}" / f"{name}.{attempt}.log"
