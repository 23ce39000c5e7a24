"""The option `--column ROLE=COLUMN`, by which `mp import` and `mp cdp backfill` map columns."""

from collections.abc import Iterable

import typer


def parse_columns(given: Iterable[str] | None, roles: Iterable[str] = ()) -> dict[str, str]:
    """Return columns by their roles; an empty column says that no column has that role.

    :raises typer.BadParameter: for text without `=`, a role given twice, or a role that is not
        among `roles`, if there are any.
    """
    columns: dict[str, str] = {}
    known = tuple(roles)
    for each in given or ():
        role, separator, column = each.partition("=")
        if not separator:
            raise _bad(f"{each!r} must be ROLE=COLUMN, such as time=created_at")
        if known and role not in known:
            raise _bad(f"unknown role {role!r}: choose one of {', '.join(known)}")
        if role in columns:
            raise _bad(f"{role} is given two columns")
        columns[role] = column
    return columns


def _bad(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--column")
