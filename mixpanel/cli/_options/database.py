"""Options that choose the local database, and opening it."""

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixpanel.cli._options.global_options import global_options
from mixpanel.cli._options.project import account_names
from mixpanel.cli._output.interrupts import interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mixpanel.data.credentials import AnyCredentials
    from mixpanel.data.store import Database


def _use_account(name: str | None) -> str | None:
    if name is not None:
        global_options.account = name
    return name


AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account", metavar="NAME", callback=_use_account, autocompletion=account_names,
        show_default=False, help="The account of `mp auth list` to use.",
    ),
]  # fmt: skip
DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--db", metavar="FILE", envvar="MP_DB", dir_okay=False,
        show_default="~/.mp/data/PROJECT.db", help="The local database.",
    ),
]  # fmt: skip

AttachOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attach", metavar="NAME=FILE", show_default=False,
        help="Let the query join with a CSV, Parquet or JSON file, or read another database "
        "(.db), as NAME. Repeatable.",
    ),
]  # fmt: skip
ATTACHED_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".db": "database", ".duckdb": "database", ".ddb": "database",
}  # fmt: skip


def attach_all(database: "Database", given: list[str] | None) -> None:
    """Attach the files of `--attach` to a database.

    :raises typer.BadParameter: for one without a name, or of an unknown kind.
    """
    from mixpanel.data._paths import expand_home

    for each in given or []:
        name, separator, file = each.partition("=")
        if not (name and separator and file):
            raise typer.BadParameter(f"--attach {each}: write NAME=FILE, as in plans=plans.csv")
        path = expand_home(file)
        suffixes = [one.lower() for one in path.suffixes if one.lower() not in (".gz", ".zst")]
        kind = ATTACHED_KINDS.get(suffixes[-1] if suffixes else "")
        if kind is None:
            raise typer.BadParameter(
                f"--attach {each}: the name of the file must end in {', '.join(ATTACHED_KINDS)}"
            )
        if kind == "csv":
            _attach_csv(database, name, path)
        elif kind == "parquet":
            database.attach_parquet(name, path)
        elif kind == "json":
            database.attach_json(name, path)
        else:
            database.attach(path, as_=name)


def _attach_csv(database: "Database", name: str, path: Path) -> None:
    from mixpanel.data.exceptions import ConfigError

    try:
        database.attach_csv(name, path)
    except ConfigError as error:
        problem, _, hint = str(error).partition("; pass encoding=")
        if not hint:
            raise
        raise ConfigError(f"{problem}; convert it first: iconv -f CP1252 -t UTF-8") from error


def database_path(db: Path | None, *, offline: bool = True) -> "tuple[Path, AnyCredentials | None]":
    """Return the path of the database, and the credentials if they were needed to find it.

    `offline` says that the command needs no account once it has the path.

    :raises ConfigError: if there is neither a path nor an account to derive it from.
    """
    from mixpanel.data._paths import default_database, expand_home

    if db is not None:
        return expand_home(db), None
    from mixpanel.data.config import Config
    from mixpanel.data.exceptions import AccountNotFoundError, ConfigError

    try:
        credentials = Config().resolve_credentials(global_options.account)
    except AccountNotFoundError:
        raise
    except ConfigError as error:
        if offline:
            error.add_note("or choose the database with --db FILE or MP_DB")
        raise
    return expand_home(default_database(credentials.project_id)), credentials


@contextmanager
def open_database(
    db: Path | None, *, write: bool = False, external: bool = False
) -> "Iterator[Database]":
    """Open the database, read-only unless `write`; many processes may read at once.

    :raises DatabaseNotFoundError: if it does not exist, also for writing.
    :raises DatabaseLockedError: if another process writes to it.
    """
    from mixpanel.data.exceptions import DatabaseNotFoundError
    from mixpanel.data.store import Database

    path, _ = database_path(db)
    if not path.is_file():
        raise DatabaseNotFoundError(path)
    database = Database.open(
        path,
        read_only=not write,
        external_access=external,
        memory_limit=global_options.memory_limit,
        threads=global_options.threads,
    )
    try:
        with interruptible(database.interrupt, force=None if write else database.discard):
            yield database
    finally:
        database.close()


def display_path(path: Path | None) -> str:
    """Return a path with `~` for the home directory; "memory" if there is none."""
    if path is None:
        return "memory"
    with suppress(RuntimeError, ValueError):  # without a home, or outside it
        return f"~/{path.relative_to(Path.home())}"
    return str(path)
