"""One published partition: what it is, where it lies, what it was made of.

A plan looks at all versions of an environment, so there may be hundreds of thousands of these values. They
hold nothing that could refer back to them, and are kept out of the garbage collector's sight.
"""

from datetime import datetime

import msgspec


class Column(msgspec.Struct, frozen=True, gc=False):
    """A column's name and Arrow type, as text."""

    name: str
    type: str


class ColumnDigest(msgspec.Struct, frozen=True, gc=False):
    """What is known of one column without reading it.

    ``hash`` is 16 hexadecimal digits and does not depend on the order of rows; ``min`` and ``max`` are the
    values as text (ISO 8601 for times), or None where the column is empty or its type has no order.
    """

    name: str
    type: str
    nulls: int
    hash: str
    min: str | None = None
    max: str | None = None


class Digest(msgspec.Struct, frozen=True, gc=False):
    """Order-independent fingerprint of a version: of its row set, and of each column.

    Two digests say something about each other only if ``algorithm`` is the same. ``content`` is 32
    hexadecimal digits over all rows, columns, names and types.
    """

    algorithm: str
    rows: int
    content: str
    columns: tuple[ColumnDigest, ...]

    def proves_equal(self, other: "Digest") -> bool:
        """Whether both versions hold the same rows, as a multiset, with the same columns and types."""
        return self.algorithm == other.algorithm and self.rows == other.rows and self.content == other.content


class InputVersion(msgspec.Struct, frozen=True, gc=False):
    """One input a version was made of."""

    dataset: str
    partition: str
    version: str


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A file written aside: not yet visible, already durable.

    ``path`` is relative to the root of the substrate; ``bytes`` is the file's size; ``checksum`` is the
    XXH3-128 of the file's bytes in hexadecimal. A single small value has no file: it is ``value``, as JSON,
    and lies in the catalog.
    """

    path: str
    bytes: int
    checksum: str
    schema: tuple[Column, ...]
    digest: Digest
    value: str | None = None


class Version(msgspec.Struct, frozen=True, gc=False):
    """One immutable output of a partition.

    ``code`` is the fingerprint of the task that made it, ``inputs`` the exact versions that it read,
    ``environment`` the one it was first published in, ``seconds`` what making it cost.
    """

    id: str
    dataset: str
    partition: str
    stored: Stored
    environment: str
    run: str
    step: str
    code: str
    inputs: tuple[InputVersion, ...]
    created_at: datetime
    seconds: float


def new_version_id(milliseconds: int, entropy: bytes) -> str:
    """Return a version id: 24 hexadecimal digits that sort by time of creation.

    ``milliseconds`` counts from the Unix epoch; ``entropy`` holds at least six random bytes.
    """
    return f"{milliseconds:012x}{entropy[:6].hex()}"
