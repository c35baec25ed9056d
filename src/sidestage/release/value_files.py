"""Values as files of one row, so that they are compared like everything else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidestage.data.version import Version

VALUE_KEY = ("_partition",)
"""What pairs the values of both sides."""


class Values:
    """Files of values in a folder for temporary files, each made when it is first asked for.

    Their columns are ``_partition`` and ``value``, the latter as JSON.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, version: Version) -> Path:
        """Return the file of a version that is a value."""
        path = self._folder / f"{version.id}.parquet"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            columns = {"_partition": [version.partition], "value": [version.stored.value]}
            pq.write_table(pa.table(columns, schema=_SCHEMA), path)
        return path


_SCHEMA = pa.schema([("_partition", pa.string()), ("value", pa.string())])
