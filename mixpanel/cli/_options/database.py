"""Say which local database a command is about, and open it."""

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.global_options import asked
from mixpanel.cli._options.project import account_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel.data.config import Credentials
    from mixpanel.data.store import Database


def _chosen(name: str | None) -> str | None:
    if name is not None:
        asked.account = name
    return name


Account = Annotated[
    str | None,
    typer.Option(
        "--account", metavar="NAME", callback=_chosen, autocompletion=account_names,
        show_default=False, help="The account of `mp auth list` to use.",
    ),
]  # fmt: skip
Db = Annotated[
    Path | None,
    typer.Option(
        "--db", metavar="PATH", envvar="MP_DB", dir_okay=False,
        show_default="~/.mp/data/PROJECT.db", help="The local database.",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """Show one thing to machines, and what matters of it as a table to people."""

    data: dict[str, Any]
    rows: Any

    def to_dict(self) -> dict[str, Any]:
        """Return what machines get."""
        return self.data

    def to_table_dict(self) -> Any:
        """Return what a table shows: rows, or one mapping of names to values."""
        return self.rows


def located(db: Path | None) -> "tuple[Path, Credentials | None]":
    """Return where the database is, and whose it is if that had to be asked.

    :raises ConfigError: when neither a path nor an account says it.
    """
    from mixpanel.data._paths import expand_home

    if db is not None:
        return expand_home(db), None
    from mixpanel.data.config import Config
    from mixpanel.data.exceptions import AccountNotFoundError, ConfigError
    from mixpanel.data.workspace import DATA

    try:
        found = Config().resolve_credentials(asked.account)
    except AccountNotFoundError:
        raise
    except ConfigError as error:
        error.add_note("or say which database: --db PATH, or MP_DB")
        raise
    return expand_home(DATA / f"{found.project_id}.db"), found


@contextmanager
def opened(db: Path | None, *, write: bool = False, external: bool = False) -> "Iterator[Database]":
    """Open the database, to read it unless told otherwise; readers may be many.

    :raises DatabaseNotFoundError: when there is none, for writers too.
    :raises DatabaseLockedError: when another process writes to it.
    """
    from mixpanel.data.exceptions import DatabaseNotFoundError
    from mixpanel.data.store import Database

    path, _ = located(db)
    if not path.is_file():
        raise DatabaseNotFoundError(path)
    database = Database.open(path, read_only=not write, external_access=external)
    try:
        yield database
    finally:
        database.close()


def short(path: Path | None) -> str:
    """Write a path the way people do, with ~ for their home."""
    if path is None:
        return "memory"
    with suppress(RuntimeError, ValueError):  # nobody knows a home, or it is elsewhere
        return f"~/{path.relative_to(Path.home())}"
    return str(path)
