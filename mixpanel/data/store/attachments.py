"""Files and other databases that are attached to a database, so that SQL can join them.

DuckDB detaches everything when the database file is closed, so all is attached again whenever it is
opened. A CSV, Parquet or JSON file is copied once into a DuckDB file of its own, which SQL
sees as a temporary view; SQL can still access no file by its path.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from mixpanel._runtime.private_files import make_folder
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.results import Attached
from mixpanel.data.store.engine import database_errors
from mixpanel.data.store.part_files import scratch_name
from mixpanel.data.store.quoting import literal, quoted, table_name

if TYPE_CHECKING:
    from pathlib import Path

    from duckdb import DuckDBPyConnection

    from mixpanel.data.results import AttachedKind

__all__ = ["ROWS", "Attachments", "Lookup", "check_alias"]

ROWS = "rows"  # the table in the copy of a file
RESERVED = {"information_schema", "main", "memory", "pg_catalog", "system", "temp"}


@dataclass(frozen=True, slots=True)
class Lookup:
    """A file that was copied into the DuckDB file `copy`, attached in DuckDB as `alias`."""

    name: str
    kind: AttachedKind
    path: Path
    copy: Path
    rows: int
    alias: str


class Attachments:
    """The files and databases attached to one database object, by name in lower case."""

    def __init__(self) -> None:
        self.lookups: dict[str, Lookup] = {}
        self.databases: dict[str, tuple[str, Path]] = {}

    def __bool__(self) -> bool:
        return bool(self.lookups or self.databases)

    def listed(self) -> list[Attached]:
        """Return all of them, by name."""
        found = [
            Attached(each.name, each.kind, each.path, each.rows) for each in self.lookups.values()
        ]
        found += [Attached(name, "database", path, None) for name, path in self.databases.values()]
        return sorted(found, key=lambda each: each.name)

    def paths(self) -> dict[str, Path]:
        """Return the paths of the databases by their names in SQL."""
        return dict(self.databases.values())

    def attach_copies(self, connection: DuckDBPyConnection, exchange: Path) -> None:
        """Attach the copies that this instance of DuckDB does not have yet, and define their views.

        Copies are linked into `exchange`, the only folder that DuckDB can access.
        """
        if not self.lookups:
            return
        query = "SELECT database_name FROM duckdb_databases()"
        known = {name for (name,) in connection.execute(query).fetchall()}
        for lookup in self.lookups.values():
            if lookup.alias not in known:
                make_folder(exchange)
                link = exchange / f"{uuid4().hex}.db"
                try:
                    os.link(lookup.copy, link)
                except OSError:  # a file system without hard links
                    shutil.copyfile(lookup.copy, link)
                with database_errors():
                    connection.execute(
                        f"ATTACH {literal(str(link))} AS {quoted(lookup.alias)} (READ_ONLY)"
                    )
                with suppress(OSError):  # on Windows DuckDB keeps it open
                    link.unlink()
        self.define_views(connection)

    def define_views(self, connection: DuckDBPyConnection) -> None:
        """Define a temporary view of each file; each connection has temporary views of its own.

        :raises ConfigError: if a table has the name of a file, which the view would hide.
        """
        if not self.lookups:
            return
        found = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main' "
            "AND table_catalog = current_database()"
        ).fetchall()
        tables = {name.lower(): name for (name,) in found}
        for name, lookup in self.lookups.items():
            if name in tables:
                raise ConfigError(
                    f"{tables[name]} is both a table and an attached file: detach the file, and "
                    "attach it under another name"
                )
            connection.execute(
                f"CREATE OR REPLACE TEMP VIEW {quoted(lookup.name)} AS "
                f"FROM {quoted(lookup.alias)}.main.{quoted(ROWS)}"
            )

    def new_copy(self, parts: Path) -> tuple[Path, str]:
        """Return the path of a new copy, in a folder of this process, and its name in DuckDB."""
        alias = f"_lookup_{uuid4().hex}"
        folder = parts / scratch_name("lookup", uuid4().hex)
        make_folder(folder)
        return folder / f"{alias}.db", alias


def check_alias(connection: DuckDBPyConnection, name: str) -> str:
    """Return the name of a database to attach, after checking that SQL can use it.

    :raises ConfigError: if it is invalid, or taken by another database or schema.
    """
    taken = connection.execute(
        "SELECT 1 FROM (SELECT database_name AS name FROM duckdb_databases() UNION ALL "
        "SELECT schema_name FROM duckdb_schemas()) WHERE lower(name) = lower(?)",
        [table_name(name)],
    ).fetchall()
    if taken or name.lower() in RESERVED:
        raise ConfigError(f"{name!r} is taken by another database or schema: use another name")
    return name
