"""The writing half of the Parquet lake, which only workers hold.

A version is written to a hidden temporary file of its dataset's folder, synced, renamed, and the folder is
synced: two syncs per version (and once per process for the folders above), after which a power cut cannot
take it away.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from sidestage.data.digest import DigestBuilder
from sidestage.data.lake import Lake, check_folder
from sidestage.data.names import check_dataset_name, file_key
from sidestage.data.syncing import sync_folder
from sidestage.data.version import Column, Digest, Stored
from sidestage.errors import DataError, NameRefused, OutputError

ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 64 << 20
COMPRESSION = {"compression": "zstd", "compression_level": 1}
TINY_BYTES = 8 << 10
TINY: dict[str, Any] = {"compression": "none", "use_dictionary": False}
"""How rows of less than ``TINY_BYTES`` are kept: setting up a compressor costs more than it saves there."""

_PENDING_BATCHES = 256
_WRITE_BUFFER = 1 << 20
_VERSION_ID = re.compile(r"[0-9a-f]{24}")
_NO_SPACE = frozenset([errno.ENOSPC, errno.EDQUOT])


class TooLarge(DataError):
    """A version was to have more bytes than it may; nothing of it is left."""


class LakeWriter(Lake):
    """A lake that can also be written to: the default substrate."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._synced_folders: set[Path] = set()

    def write(
        self,
        dataset: str,
        partition: str,
        version_id: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        *,
        most_bytes: int | None = None,
    ) -> Stored:
        """Write one version aside; see ``Substrate.write``.

        Raises TooLarge, too, before its file has more than ``most_bytes``; None means no limit.
        """
        try:
            return self._write(dataset, partition, version_id, schema, batches, most_bytes)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def _write(
        self,
        dataset: str,
        partition: str,
        version_id: str,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        most_bytes: int | None,
    ) -> Stored:
        check_dataset_name(dataset)
        if not _VERSION_ID.fullmatch(version_id):
            raise NameRefused(f"The version id {ascii(version_id)[:60]} is not 24 hexadecimal digits.")
        digest = DigestBuilder(schema)
        with _space(self.root):
            folder = self._folder(dataset)
        final = folder / f"{file_key(partition)}~{version_id}.parquet"
        temporary = folder / f".{final.name}.tmp"
        sink = _Sink(temporary, most_bytes)
        try:
            _refuse_existing(final)
            made = _write_parquet(sink, schema, batches, digest)
            sink.sync()
            temporary.rename(final)
            with _space(folder):
                sync_folder(folder)
        except BaseException:
            sink.abandon()
            if sink.is_synced and not os.path.lexists(temporary):
                final.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            raise
        columns = tuple(Column(name=field.name, type=str(field.type)) for field in schema)
        relative = f"{dataset}/{final.name}"
        return Stored(path=relative, bytes=sink.size, checksum=sink.checksum(), schema=columns, digest=made)

    def _folder(self, dataset: str) -> Path:
        """Return the folder of a dataset, made and synced where needed, with no link on the way."""
        if self.root not in self._synced_folders:
            _make_root(self.root)
            self._synced_folders.add(self.root)
        folder = self.root
        for segment in dataset.split("/"):
            parent, folder = folder, folder / segment
            try:
                check_folder(folder)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    folder.mkdir()
                check_folder(folder)
                self._synced_folders.discard(folder)
            # One that another process made just now may not be synced yet.
            if folder not in self._synced_folders:
                sync_folder(parent)
                self._synced_folders.add(folder)
        return folder


class _Sink:
    """A new file that hashes and counts what is written to it; more than ``most`` bytes never are."""

    def __init__(self, path: Path, most: int | None) -> None:
        self.size = 0
        self.closed = False  # asked for by pyarrow
        self.is_synced = False
        self._path = path
        self._most = most
        self._hash = xxhash.xxh3_128()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            with _space(path):
                self._descriptor: int | None = os.open(path, flags, 0o444)
        except FileExistsError as error:
            hint = "Another process writes this very version; use a new id."
            raise DataError(f"{path} exists already.", hint=hint) from error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._descriptor is None:  # abandoned: pyarrow still wants to write its footer
            return len(view)
        if self._most is not None and self.size + len(view) > self._most:
            raise TooLarge(f"{self._path} was to have more than {self._most:,} bytes.")
        rest = view
        with _space(self._path):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: nothing is held back here."""

    def close(self) -> None:
        """Do nothing: the file is synced, or abandoned, by its owner and not by pyarrow."""

    def sync(self) -> None:
        assert self._descriptor is not None
        with _space(self._path):
            os.fsync(self._descriptor)
        self.abandon()
        self.is_synced = True

    def abandon(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def checksum(self) -> str:
        return str(self._hash.hexdigest())


def _write_parquet(
    sink: _Sink, schema: pa.Schema, batches: Iterable[pa.RecordBatch], digest: DigestBuilder
) -> Digest:
    stream = pa.BufferedOutputStream(pa.PythonFile(sink, mode="w"), _WRITE_BUFFER)
    writer = None
    try:
        groups = _row_groups(schema, batches)
        first = next(groups, None)
        writer = _parquet_writer(stream, schema, is_tiny=first is None or first.nbytes < TINY_BYTES)
        for group in chain([] if first is None else [first], groups):
            digest.add(group)
            _write_group(writer, group)
        writer.close()
        stream.close()
    except BaseException:
        sink.abandon()
        with suppress(Exception):
            if writer is not None:
                writer.close()
            stream.close()
        raise
    return digest.finish()


def _parquet_writer(stream: Any, schema: pa.Schema, *, is_tiny: bool) -> Any:
    try:
        return pq.ParquetWriter(stream, schema, **(TINY if is_tiny else COMPRESSION))
    except pa.ArrowException as error:
        raise OutputError(f"Columns cannot be stored: {error}") from error


def _write_group(writer: Any, group: pa.RecordBatch) -> None:
    try:
        writer.write_batch(group, row_group_size=max(1, group.num_rows))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise OutputError(f"Rows cannot be stored: {error}") from error


def _row_groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows as batches of the size of a row group, in order, holding no more than one."""
    pending: list[pa.RecordBatch] = []
    small: list[pa.RecordBatch] = []  # joined early: each batch costs memory beyond its rows
    rows = size = 0
    for batch in batches:
        if not batch.schema.equals(schema):
            raise OutputError(
                f"A batch has the columns {_described(batch.schema)}; announced were {_described(schema)}.",
                hint="Make every batch with the same columns and types.",
            )
        for piece in _pieces(batch):
            if pending or small:
                if rows + piece.num_rows > ROW_GROUP_ROWS or size + piece.nbytes > ROW_GROUP_BYTES:
                    yield _joined([*pending, *small])
                    pending, small, rows, size = [], [], 0, 0
                elif len(small) == _PENDING_BATCHES:
                    pending.append(_joined(small))
                    small = []
            small.append(piece)
            rows += piece.num_rows
            size += piece.nbytes
    if pending or small:
        yield _joined([*pending, *small])


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows, size = batch.num_rows, batch.nbytes
    if rows == 0:
        return
    step = max(1, min(ROW_GROUP_ROWS, rows * ROW_GROUP_BYTES // max(1, size)))
    if rows <= step:
        yield batch
        return
    for start in range(0, rows, step):
        yield batch.slice(start, step)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:500]


@contextmanager
def _space(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DataError(
                f"{path} may not grow any larger: {error.strerror}.",
                hint="Make smaller partitions, or raise the limit of files' sizes where the command is"
                " started (ulimit -f); the version that was current before still is.",
            ) from error
        if error.errno not in _NO_SPACE:
            raise
        raise DataError(
            f"No space to write {path}: {error.strerror}.",
            hint="Free space and run the step again; the version that was current before still is.",
        ) from error


def _refuse_existing(final: Path) -> None:
    # The caller holds the temporary name, which whoever writes this version needs: nobody can be faster now.
    if os.path.lexists(final):
        raise DataError(f"{final} exists already.", hint="Versions are never written twice; use a new id.")


def _make_root(root: Path) -> None:
    missing = [root, *root.parents]
    made = [folder for folder in missing if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for folder in reversed(made):
        sync_folder(folder.parent)
