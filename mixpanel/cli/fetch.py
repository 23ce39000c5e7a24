"""Fetch events and profiles once, into a local database, to ask it as often as you like."""

import csv
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mixpanel.cli._options.database import Account, Db
from mixpanel.cli._options.fetching import check, exclude, need, plan, run, stream
from mixpanel.cli._options.project import Base
from mixpanel.cli._output.format import As, Jq, Options

EXAMPLE = "Example: mp fetch events --from 2026-01-01 --to 2026-03-31"
EVENTS = """Examples:

mp fetch events --from 2026-01-01 --to 2026-03-31

mp fetch events january --from 2026-01-01 --to 2026-01-31 -e "Order Paid" -e "Order Shipped"

mp fetch events --from 2025-01-01 --to 2025-12-31 --dry-run

mp fetch events --from 2026-01-01 --to 2026-01-07 --stdout | gzip > week.ndjson.gz
"""
PROFILES = """Examples:

mp fetch profiles

mp fetch profiles team --where 'properties["plan"] == "team"' -o plan -o city

mp fetch profiles --append
"""
SYNC = """Examples:

mp fetch sync --from 2026-01-01

mp fetch sync

mp fetch sync --dry-run --format table
"""
LIMIT = 100_000


def _day(context: typer.Context, parameter: Any, value: str | None) -> str | None:
    if value is not None and not context.resilient_parsing:
        from mixpanel.data._fetch.plan import as_day

        as_day(value, parameter.opts[0])
    return value


def _names(context: typer.Context, given: list[str] | None) -> list[str] | None:
    """Divide names at commas; one with a comma in it stands in quotes, as in CSV."""
    if not given or context.resilient_parsing:
        return given
    try:
        rows = [next(csv.reader([one], skipinitialspace=True, strict=True), []) for one in given]
    except csv.Error as error:
        raise typer.BadParameter(f"a quote without its end: {', '.join(given)}") from error
    return [name.strip() for row in rows for name in row if name.strip()]


Name = Annotated[
    str | None, typer.Argument(metavar="NAME", show_default=False, help="What to call the table.")
]
From = Annotated[
    str,
    typer.Option("--from", metavar="DAY", callback=_day, help="The first day, as 2026-01-31."),
]
To = Annotated[
    str, typer.Option("--to", metavar="DAY", callback=_day, help="The last day, it included.")
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--events", "-e", metavar="NAME", callback=_names, show_default="all",
        help="Only events of this name; give it again for more, or divide names with commas. "
        "A name with a comma needs quotes of its own: -e '\"Paid, late\"'.",
    ),
]  # fmt: skip
Where = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="EXPR", show_default=False,
        help="Only those for which this holds, as 'properties[\"plan\"] == \"team\"'.",
    ),
]  # fmt: skip
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", "-l", metavar="N", min=1, max=LIMIT,
        help=f"So many events at most, up to {LIMIT:,}.",
    ),
]  # fmt: skip
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Put the new table in place of the old one, once it is whole."),
]
Mixed = Annotated[
    bool, typer.Option("--mixed", help="Append also what was fetched with other filters.")
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=100, show_default="8", help="Calls at a time.")
]
ChunkDays = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=100, help="How many days a call takes.")
]
Zone = Annotated[
    str | None,
    typer.Option(
        "--project-timezone", metavar="ZONE", show_default="UTC",
        help="The zone of a project from before 2023, whose events carry local time.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say which calls it would make, and make none.")
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Show no progress bar.")]
Stdout = Annotated[
    bool,
    typer.Option("--stdout", help="Store nothing: write each one to stdout, as a line of JSON."),
]
Raw = Annotated[bool, typer.Option("--raw", help="With --stdout: as Mixpanel sends them.")]
Parallel = Annotated[
    bool,
    typer.Option("--parallel", "-p", help="Accepted, without effect: fetching always is parallel."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=100, max=LIMIT,
        help="Accepted, without effect: DuckDB loads whole files.",
    ),
]  # fmt: skip


def fetch() -> None:
    """Fetch events and profiles once, into a local database.

    The database is a DuckDB file; `mp inspect` shows what is in it and `mp query sql` asks it, as
    often as you like and without a call. Mixpanel takes 60 exports and 60 queries an hour from a
    project: what does not fit is waited for. Interrupted, the same command goes on from there.
    """


def events(
    name: Name = None,
    *,
    from_date: From,
    to_date: To,
    events: Events = None,
    where: Where = None,
    limit: Limit = None,
    replace: Replace = False,
    append: Annotated[
        bool, typer.Option("--append", help="Add days to the table, or replace those it has.")
    ] = False,
    mixed: Mixed = False,
    workers: Workers = None,
    chunk_days: ChunkDays = None,
    project_timezone: Zone = None,
    stdout: Stdout = False,
    raw: Raw = False,
    dry_run: DryRun = False,
    no_progress: NoProgress = False,
    _parallel: Parallel = False,
    _batch_size: BatchSize = None,
    _account: Account = None,
    db: Db = None,
    base_url: Base = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:
    """Fetch the events of some days into a table, by default `events`.

    The table appears when all of it is there. Copies of an event, which Mixpanel's export may
    hold, are merged. A call takes a day while the hourly budget of 60 allows, else several.
    """
    options = Options(format, jq)
    stored: dict[str, Any] = {
        "NAME": name, "--replace": replace, "--append": append, "--mixed": mixed,
        "--workers": workers, "--project-timezone": project_timezone, "--dry-run": dry_run,
    }  # fmt: skip
    check(stored, replace=replace, append=append, stdout=stdout, raw=raw, options=options)
    asked_for: dict[str, Any] = {
        "from_date": from_date, "to_date": to_date, "events": events, "where": where,
        "limit": limit, "chunk_days": chunk_days,
    }  # fmt: skip
    if stdout:
        stream(
            lambda opened: opened.stream_events(raw=raw, **asked_for),
            "events", db=db, base_url=base_url,
        )  # fmt: skip
        return
    asked_for |= {
        "append": append, "replace": replace, "mixed": mixed, "max_workers": workers,
        "project_timezone": project_timezone,
    }  # fmt: skip
    table = name or "events"
    if dry_run:
        plan(lambda opened: opened.plan_events(table, **asked_for), db, base_url, options)
        return
    run(
        table,
        "days",
        lambda opened, teller: opened.fetch_events(
            table, progress=teller.progress, on_batch_complete=teller.batch, **asked_for
        ),
        options, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


def profiles(
    name: Name = None,
    *,
    where: Where = None,
    cohort: Annotated[
        int | None, typer.Option("--cohort", "-c", metavar="ID", help="Only those in this cohort.")
    ] = None,
    output_properties: Annotated[
        list[str] | None,
        typer.Option(
            "--output-properties", "-o", metavar="NAME", callback=_names, show_default="all",
            help="Only this property, much faster; again, or with commas, for more.",
        ),
    ] = None,
    distinct_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this profile.")
    ] = None,
    distinct_ids: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", show_default=False, help="One of several profiles; repeat the option."
        ),
    ] = None,
    group_id: Annotated[
        str | None,
        typer.Option("--group-id", "-g", metavar="KEY", help="Of this group key, not of users."),
    ] = None,
    behaviors: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Name what users did, for --where: \'[{"window": "30d", "name": "b1", '
            '"event_selectors": [{"event": "Order Paid"}]}]\' and \'behaviors["b1"] > 0\'.',
        ),
    ] = None,
    as_of_timestamp: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="Count behaviors back from here. [dim]Else now[/]"),
    ] = None,
    include_all_users: Annotated[
        bool, typer.Option("--include-all-users", help="With --cohort: also without a profile.")
    ] = False,
    replace: Replace = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Update the table: the latest of each profile stays."),
    ] = False,
    mixed: Mixed = False,
    workers: Annotated[
        int | None, typer.Option(
            metavar="N", min=1, max=100, show_default="5",
            help="Calls at a time, 5 at most.",
        ),
    ] = None,
    stdout: Stdout = False,
    raw: Raw = False,
    no_progress: NoProgress = False,
    _parallel: Parallel = False,
    _batch_size: BatchSize = None,
    _account: Account = None,
    db: Db = None,
    base_url: Base = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:  # fmt: skip
    """Fetch the profiles of users, or of a group, into a table, by default `profiles`.

    However many there are, they cost one of the 60 queries an hour that a project has. Nothing is
    stored before the last one has come.
    """
    options = Options(format, jq)
    stored: dict[str, Any] = {
        "NAME": name, "--replace": replace, "--append": append, "--mixed": mixed,
        "--workers": workers,
    }  # fmt: skip
    check(stored, replace=replace, append=append, stdout=stdout, raw=raw, options=options)
    exclude({"--distinct-id": distinct_id, "--distinct-ids": distinct_ids})
    exclude({"--behaviors": behaviors, "--cohort": cohort})
    need("--behaviors", behaviors, {"--where": where})
    need("--include-all-users", include_all_users, {"--cohort": cohort})
    asked_for: dict[str, Any] = {
        "where": where, "cohort_id": cohort, "output_properties": output_properties,
        "distinct_id": distinct_id, "distinct_ids": distinct_ids or None, "group_id": group_id,
        "behaviors": behaviors, "as_of_timestamp": as_of_timestamp,
        "include_all_users": include_all_users,
    }  # fmt: skip
    if stdout:
        stream(
            lambda opened: opened.stream_profiles(raw=raw, **asked_for),
            "profiles", db=db, base_url=base_url,
        )  # fmt: skip
        return
    asked_for |= {"append": append, "replace": replace, "mixed": mixed, "max_workers": workers}
    table = name or "profiles"
    run(
        table,
        "pages",
        lambda opened, teller: opened.fetch_profiles(table, progress=teller.progress, **asked_for),
        options, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


def sync(
    name: Name = None,
    *,
    from_date: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", callback=_day, show_default=False,
            help="Where to begin, the first time.",
        ),
    ] = None,
    to_date: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DAY", callback=_day, show_default="today",
            help="The last day, it included.",
        ),
    ] = None,
    lookback_days: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=LIMIT, help="Fetch days again for so long after they ended."
        ),
    ] = 5,
    events: Events = None,
    where: Where = None,
    workers: Workers = None,
    chunk_days: ChunkDays = None,
    project_timezone: Zone = None,
    dry_run: DryRun = False,
    no_progress: NoProgress = False,
    _account: Account = None,
    db: Db = None,
    base_url: Base = None,
    format: As = None,  # noqa: A002
    jq: Jq = None,
) -> None:  # fmt: skip
    """Bring a table of events up to date, by default `events`.

    It fetches the days that the table lacks, and again those whose events may still arrive late;
    such a day is replaced as a whole, so running it twice changes nothing.
    """
    options = Options(format, jq)
    table = name or "events"
    asked_for: dict[str, Any] = {
        "from_date": from_date, "to_date": to_date, "lookback_days": lookback_days,
        "events": events, "where": where, "max_workers": workers, "chunk_days": chunk_days,
        "project_timezone": project_timezone,
    }  # fmt: skip
    if dry_run:
        plan(lambda opened: opened.plan_sync(table, **asked_for), db, base_url, options)
        return
    run(
        table,
        "days",
        lambda opened, teller: opened.sync_events(
            table, progress=teller.progress, on_batch_complete=teller.batch, **asked_for
        ),
        options, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("events", events, EVENTS),
    ("profiles", profiles, PROFILES),
    ("sync", sync, SYNC),
)
