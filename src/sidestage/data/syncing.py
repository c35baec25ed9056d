"""Making safe, against a power cut, which names a folder holds."""

import os
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Make safe which names a folder holds: a file that was made or renamed there is found again.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
