"""Which Sidestage this is."""

from pathlib import Path

VERSION = "0.1.0"
PACKAGE = Path(__file__).resolve().parent
"""The folder of the package that runs."""
