"""Write a CSV, Parquet or JSON file into a table of a DuckDB file of its own, for joins."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Literal

from mixpanel._runtime.temporary_folders import temporary_folder
from mixpanel.data.exceptions import ConfigError, MixpanelDataError
from mixpanel.data.readers.csv import CSVReader
from mixpanel.data.readers.files import DUCKDB_CONFIG, escaped, parquet_names, unreadable
from mixpanel.data.readers.options import ReadOptions
from mixpanel.data.readers.text_files import MAX_LINE_BYTES, rewritten_as_utf8, text_encoding
from mixpanel.data.store.attachments import ROWS
from mixpanel.data.store.engine import STORAGE_VERSION, disable_progress_bar, load_duckdb
from mixpanel.data.store.quoting import literal, quoted
from mixpanel.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from duckdb import DuckDBPyConnection

__all__ = ["FileKind", "write_lookup"]

FileKind = Literal["csv", "parquet", "json"]
LONG_INTEGER = r"-?\d{16,}"  # a double holds 15 digits of each number


def write_lookup(
    source: Path,
    kind: FileKind,
    target: Path,
    *,
    encoding: str | None,
    interruptible: Callable[[DuckDBPyConnection], AbstractContextManager[object]],
) -> int:
    """Write the rows of a file into the table `ROWS` of a new DuckDB file; return how many.

    Text of a CSV file becomes numbers, dates and so on only if all cells of a column are written
    unambiguously as such, as for `import_events`.

    :raises ConfigError: if it cannot be read as `kind`, or column names differ only in case.
    :raises MixpanelDataError: if it is missing, or no regular file.
    """
    _require_file(source)
    duckdb = load_duckdb()
    config: dict[str, bool | str] = {
        **DUCKDB_CONFIG,
        "temp_directory": str(target.with_suffix(".spill")),
        "storage_compatibility_version": STORAGE_VERSION,
        "python_enable_replacements": False,
    }
    try:
        with ExitStack() as stack:
            if kind == "csv":
                source = _as_utf8(source, encoding, stack)
            connection = stack.enter_context(closing(duckdb.connect(str(target), config=config)))
            stack.enter_context(interruptible(connection))
            disable_progress_bar(connection)
            connection.execute("SET TimeZone = 'UTC'")
            try:
                _WRITERS[kind](connection, source)
                query = f"SELECT count(*) FROM {quoted(ROWS)}"
                [(count,)] = connection.execute(query).fetchall()
            except duckdb.InterruptException:
                raise
            except duckdb.Error as error:
                raise unreadable(source, source.name, error, is_csv=kind == "csv") from error
    except ConfigError:
        raise
    except ConfigurationError as error:
        raise ConfigError(str(error)) from error
    return int(count)


def _require_file(source: Path) -> None:
    """Raise unless it is a regular file that can be opened; opening never waits for a FIFO."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(source, os.O_RDONLY))
            return
    except OSError as error:
        code = "FILE_NOT_FOUND" if isinstance(error, FileNotFoundError) else "FILE_UNREADABLE"
        raise MixpanelDataError(f"{source}: {error.strerror}", code=code) from error
    kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
    raise MixpanelDataError(f"{source} is {kind}: name one file", code="FILE_UNREADABLE")


def _as_utf8(source: Path, encoding: str | None, stack: ExitStack) -> Path:
    found = text_encoding(source, ReadOptions(encoding=encoding))
    if found is None:
        return source
    return rewritten_as_utf8(source, found, stack.enter_context(temporary_folder()))


def _csv(connection: DuckDBPyConnection, source: Path) -> None:
    with ExitStack() as stack:
        folder = partial(stack.enter_context, temporary_folder())
        reader = CSVReader(connection, source, source.name, ReadOptions(), folder)
        reader.write_table(ROWS, escaped, partial(_require_names, source))


def _parquet(connection: DuckDBPyConnection, source: Path) -> None:
    _require_names(source, parquet_names(connection, source))
    connection.execute(
        f"CREATE TABLE {quoted(ROWS)} AS FROM read_parquet(?, hive_partitioning = false)",
        [escaped(source)],
    )


def _json(connection: DuckDBPyConnection, source: Path) -> None:
    options = f"?, format = 'auto', maximum_object_size = {MAX_LINE_BYTES}"
    keys = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(json)) FROM read_json_objects({options}) "
        "WHERE json_type(json) = 'OBJECT'",
        [escaped(source)],
    ).fetchall()
    if not keys:
        raise ConfigError(f"{source.name} has no JSON objects with keys: each object is a row")
    _require_names(source, [key for (key,) in keys])
    source_sql = f"read_json({options}, records = true, sample_size = -1)"
    described = connection.execute(f"DESCRIBE FROM {source_sql}", [escaped(source)]).fetchall()
    doubles = [name for name, type_, *_ in described if type_ == "DOUBLE"]
    types = _exact_types(connection, source, options, doubles) if doubles else {}
    if types:
        listed = ", ".join(
            f"{literal(name)}: {literal(types.get(name) or type_)}" for name, type_, *_ in described
        )
        source_sql = f"read_json({options}, records = true, columns = {{{listed}}})"
    connection.execute(f"CREATE TABLE {quoted(ROWS)} AS FROM {source_sql}", [escaped(source)])


def _exact_types(
    connection: DuckDBPyConnection, source: Path, options: str, columns: Sequence[str]
) -> dict[str, str]:
    """Return types for those columns of which a DOUBLE would lose digits, such as ids from 2**64.

    HUGEINT if all values are whole numbers that it holds, else the numbers stay text.
    """
    listed = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in columns)
    checks = ", ".join(
        f"bool_or(regexp_full_match({quoted(name)}, ?)), "
        f"bool_and(TRY_CAST({quoted(name)} AS HUGEINT)::VARCHAR = {quoted(name)})"
        for name in columns
    )
    found = connection.execute(
        f"SELECT {checks} FROM read_json({options}, records = true, columns = {{{listed}}})",
        [*[LONG_INTEGER] * len(columns), escaped(source)],
    ).fetchall()[0]
    pairs = zip(columns, found[::2], found[1::2], strict=True)
    return {name: "HUGEINT" if whole else "VARCHAR" for name, long, whole in pairs if long}


_WRITERS = {"csv": _csv, "parquet": _parquet, "json": _json}


def _require_names(source: Path, names: Sequence[str]) -> None:
    """Raise if names differ only in case, which SQL cannot tell apart."""
    lowered = [name.lower() for name in names]
    twice = sorted({name for name in names if lowered.count(name.lower()) > 1})
    if twice:
        raise ConfigError(
            f"{source.name}: the columns {', '.join(map(repr, twice))} differ only in case, which "
            "SQL cannot tell apart: rename all but one"
        )
