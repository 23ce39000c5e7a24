"""`mp fetch`: events and profiles into the local database."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixpanel.cli._options.database import AccountOption, DatabaseOption
from mixpanel.cli._options.fetching import (
    check_options,
    confirm_requests,
    run_fetch,
    run_stream,
    show_plan,
    show_profile_plan,
)
from mixpanel.cli._options.project import BaseUrlOption
from mixpanel.cli._options.shared import parse_names, refuse_together, require_with, with_options
from mixpanel.cli._output.format import OutputOptions, output_options
from mixpanel.cli._output.terminal import ForceOption

if TYPE_CHECKING:
    from mixpanel.cli.app import Command

HELP = """
The database is a DuckDB file: `mp inspect` shows what is in it, and `mp query sql` queries it
without a request. Mixpanel allows 60 exports and 60 queries an hour for a project; a fetch waits
when they are used up. Run the same command again to resume an interrupted fetch.
"""
EXAMPLE = "mp fetch events --from 2026-01-01 --to 2026-03-31"
EVENTS = """
mp fetch events --from 2026-01-01 --to 2026-03-31
mp fetch events january --from 2026-01-01 --to 2026-01-31 -e "Order Paid" -e "Order Shipped"
mp fetch events --from 2025-01-01 --to 2025-12-31 --dry-run
mp fetch events --from 2026-01-01 --to 2026-01-07 --stdout | gzip > week.ndjson.gz
"""
PROFILES = """
mp fetch profiles
mp fetch profiles team --where 'properties["plan"] == "team"' -o plan -o city
mp fetch profiles --replace --history
mp fetch profiles --dry-run
"""
SYNC_PROFILES = """
mp fetch sync-profiles
mp fetch sync-profiles --lookback-days 7
mp fetch sync-profiles --dry-run
"""
SYNC = """
mp fetch sync --from 2026-01-01
mp fetch sync
mp fetch sync --dry-run
"""
MAX_LIMIT = 100_000


def _day(context: typer.Context, parameter: Any, value: str | None) -> str | None:
    """Refuse what is not a day before any request, naming the option."""
    if value is not None and not context.resilient_parsing:
        from mixpanel.data._fetch.plan import as_day

        as_day(value, parameter.opts[0])
    return value


Name = Annotated[
    str | None, typer.Argument(metavar="TABLE", show_default=False, help="A name for the table.")
]
FromOption = Annotated[
    str,
    typer.Option(
        "--from", metavar="DAY", callback=_day,
        help="The first day: 2026-01-31, today, yesterday, -7d, -4w or -3m.",
    ),
]  # fmt: skip
ToOption = Annotated[
    str, typer.Option("--to", metavar="DAY", callback=_day, help="The last day, inclusive.")
]
EventsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--events", "-e", metavar="NAME", callback=parse_names, show_default="all",
        help="Only events of this name; repeatable, or several separated by commas.",
    ),
]  # fmt: skip
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where", "-w", metavar="EXPR",
        help="Only rows that match, such as 'properties[\"plan\"] == \"team\"'.",
    ),
]  # fmt: skip
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", "-l", metavar="N", min=1, max=MAX_LIMIT, help="At most N events.",
    ),
]  # fmt: skip
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace the table once the new one is complete.")
]
MixedOption = Annotated[
    bool, typer.Option("--mixed", help="Allow --append of rows fetched with other filters.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, max=100, show_default="8", help="Requests at once."
    ),
]
ChunkDaysOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=100, show_default="1, or what the hourly limit allows",
        help="Days in one request.",
    ),
]  # fmt: skip
TimezoneOption = Annotated[
    str | None,
    typer.Option(
        "--project-timezone", metavar="ZONE", show_default="UTC",
        help="The time zone of a project from before 2023, whose events have local times.",
    ),
]  # fmt: skip
PartialOption = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Have the table without days that keep failing; the next fetch fills these gaps only.",
    ),
]
MaxRequestsOption = Annotated[
    int | None,
    typer.Option(
        "--max-requests", metavar="N", min=0, show_default=False,
        help="Fail before the first request if more than N are needed.",
    ),
]  # fmt: skip
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show the requests it would make, and make none.")
]
HistoryOption = Annotated[
    bool,
    typer.Option("--history", help="Keep earlier versions of profiles in TABLE_history."),
]
ProfileWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, max=100, show_default="5",
        help="Requests at once, at most 5.",
    ),
]  # fmt: skip
CohortOption = Annotated[
    int | None,
    typer.Option("--cohort", "-c", metavar="ID", help="Only profiles in this cohort."),
]
OutputPropertiesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output-properties", "-o", metavar="NAME", callback=parse_names, show_default="all",
        help="Only this property, which is much faster; repeatable, or separated by commas.",
    ),
]  # fmt: skip
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group-id", "-g", metavar="KEY", help="Profiles of this group key, not of users."
    ),
]
NoProgressOption = Annotated[bool, typer.Option("--no-progress", help="Show no progress bar.")]
StdoutOption = Annotated[
    bool, typer.Option("--stdout", help="Store nothing: write lines of JSON to stdout.")
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="With --stdout: write records as Mixpanel sends them.")
]
# Options of mixpanel_data, whose scripts should run unchanged.
ParallelOption = Annotated[
    bool, typer.Option("--parallel", "-p", help="Ignored: a fetch always runs in parallel.")
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=100, max=MAX_LIMIT,
        help="Ignored: DuckDB loads whole files.",
    ),
]  # fmt: skip


@with_options(output=output_options)
def events(
    name: Name = None,
    *,
    from_date: FromOption,
    to_date: ToOption,
    events: EventsOption = None,
    where: WhereOption = None,
    limit: LimitOption = None,
    replace: ReplaceOption = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add days to the table; days it has already are replaced."),
    ] = False,
    mixed: MixedOption = False,
    max_workers: WorkersOption = None,
    chunk_days: ChunkDaysOption = None,
    project_timezone: TimezoneOption = None,
    partial: PartialOption = False,
    max_requests: MaxRequestsOption = None,
    stdout: StdoutOption = False,
    raw: RawOption = False,
    dry_run: DryRunOption = False,
    no_progress: NoProgressOption = False,
    _parallel: ParallelOption = False,
    _batch_size: BatchSizeOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:
    """Fetch the events of a range of days into a table.

    The table is `events` unless it is named. It appears when it is complete. Duplicates in
    Mixpanel's export are merged. One request fetches a day while the hourly limit of 60 allows it,
    else several days.
    """
    stored: dict[str, Any] = {
        "TABLE": name, "--replace": replace, "--append": append, "--mixed": mixed,
        "--workers": max_workers, "--project-timezone": project_timezone, "--dry-run": dry_run,
        "--partial": partial, "--max-requests": max_requests,
    }  # fmt: skip
    check_options(stored, replace=replace, append=append, stdout=stdout, raw=raw, output=output)
    query: dict[str, Any] = {
        "from_date": from_date, "to_date": to_date, "events": events, "where": where,
        "limit": limit, "chunk_days": chunk_days,
    }  # fmt: skip
    if stdout:
        run_stream(
            lambda opened: opened.stream_events(raw=raw, **query),
            "events", db=db, base_url=base_url,
        )  # fmt: skip
        return
    query |= {
        "append": append, "replace": replace, "mixed": mixed, "max_workers": max_workers,
        "project_timezone": project_timezone, "partial": partial, "max_requests": max_requests,
    }  # fmt: skip
    table = name or "events"
    if dry_run:
        show_plan(lambda opened: opened.plan_events(table, **query), db, base_url, output)
        return
    run_fetch(
        table,
        "days",
        lambda opened, reporter: opened.fetch_events(
            table, progress=reporter.progress, on_batch_complete=reporter.batch, **query
        ),
        output, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


@with_options(output=output_options)
def profiles(
    name: Name = None,
    *,
    where: WhereOption = None,
    cohort_id: CohortOption = None,
    output_properties: OutputPropertiesOption = None,
    distinct_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this profile.")
    ] = None,
    distinct_ids: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", show_default=False, help="Only these profiles; repeatable."),
    ] = None,
    group_id: GroupOption = None,
    behaviors: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='Define behaviors for --where: \'[{"window": "30d", "name": "b1", '
            '"event_selectors": [{"event": "Order Paid"}]}]\' and \'behaviors["b1"] > 0\'.',
        ),
    ] = None,
    as_of_timestamp: Annotated[
        int | None,
        typer.Option(
            metavar="SECONDS", show_default="now", help="The end of the window of --behaviors."
        ),
    ] = None,
    include_all_users: Annotated[
        bool,
        typer.Option(
            "--include-all-users", help="With --cohort: include users without a profile."
        ),
    ] = False,
    replace: ReplaceOption = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Update the table; the latest version of a profile stays."),
    ] = False,
    mixed: MixedOption = False,
    max_workers: ProfileWorkersOption = None,
    history: HistoryOption = False,
    stdout: StdoutOption = False,
    raw: RawOption = False,
    dry_run: DryRunOption = False,
    no_progress: NoProgressOption = False,
    _parallel: ParallelOption = False,
    _batch_size: BatchSizeOption = None,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Fetch the profiles of users, or of a group, into a table.

    The table is `profiles` unless it is named. However many profiles there are, they count as one
    of the project's 60 queries an hour. The table appears when the last one has arrived; an
    interrupted fetch resumes within an hour.
    """
    stored: dict[str, Any] = {
        "TABLE": name, "--replace": replace, "--append": append, "--mixed": mixed,
        "--workers": max_workers, "--history": history, "--dry-run": dry_run,
    }  # fmt: skip
    check_options(stored, replace=replace, append=append, stdout=stdout, raw=raw, output=output)
    refuse_together({"--distinct-id": distinct_id, "--distinct-ids": distinct_ids})
    refuse_together({"--behaviors": behaviors, "--cohort": cohort_id})
    require_with("--behaviors", behaviors, {"--where": where})
    require_with("--include-all-users", include_all_users, {"--cohort": cohort_id})
    query: dict[str, Any] = {
        "where": where, "cohort_id": cohort_id, "output_properties": output_properties,
        "distinct_id": distinct_id, "distinct_ids": distinct_ids or None, "group_id": group_id,
        "behaviors": behaviors, "as_of_timestamp": as_of_timestamp,
        "include_all_users": include_all_users,
    }  # fmt: skip
    if stdout:
        run_stream(
            lambda opened: opened.stream_profiles(raw=raw, **query),
            "profiles", db=db, base_url=base_url,
        )  # fmt: skip
        return
    query |= {
        "append": append, "replace": replace, "mixed": mixed, "max_workers": max_workers,
        "history": history,
    }  # fmt: skip
    table = name or "profiles"
    if dry_run:
        show_profile_plan(lambda opened: opened.plan_profiles(table, **query), db, base_url, output)
        return
    run_fetch(
        table,
        "pages",
        lambda opened, reporter: opened.fetch_profiles(
            table, progress=reporter.progress, **query
        ),
        output, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


@with_options(output=output_options)
def sync(
    name: Name = None,
    *,
    from_date: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DAY", callback=_day, show_default=False,
            help="The first day, as 2026-01-31 or -3m; needed for a new table.",
        ),
    ] = None,
    to_date: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DAY", callback=_day, show_default="today",
            help="The last day, inclusive.",
        ),
    ] = None,
    lookback_days: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=MAX_LIMIT,
            help="Fetch a day again for N days after it ended, for late events.",
        ),
    ] = 5,
    events: EventsOption = None,
    where: WhereOption = None,
    max_workers: WorkersOption = None,
    chunk_days: ChunkDaysOption = None,
    project_timezone: TimezoneOption = None,
    partial: PartialOption = False,
    max_requests: MaxRequestsOption = None,
    yes: ForceOption = False,
    dry_run: DryRunOption = False,
    no_progress: NoProgressOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Bring a table of events up to date.

    The table is `events` unless it is named. It fetches the days that are missing, and again the
    days for which late events may still arrive. Such a day is replaced as a whole, so running it
    twice changes nothing. It counts the events that are new, changed, as before and vanished, and
    asks before it makes more than 30 requests for a table that exists.
    """
    table = name or "events"
    query: dict[str, Any] = {
        "from_date": from_date, "to_date": to_date, "lookback_days": lookback_days,
        "events": events, "where": where, "max_workers": max_workers, "chunk_days": chunk_days,
        "project_timezone": project_timezone, "partial": partial, "max_requests": max_requests,
    }  # fmt: skip
    if dry_run:
        show_plan(lambda opened: opened.plan_sync(table, **query), db, base_url, output)
        return
    if not yes and max_requests is None:
        confirm_requests(table, lambda opened: opened.plan_sync(table, **query), db, base_url)
    run_fetch(
        table,
        "days",
        lambda opened, reporter: opened.sync_events(
            table, progress=reporter.progress, on_batch_complete=reporter.batch, **query
        ),
        output, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


@with_options(output=output_options)
def sync_profiles(
    name: Name = None,
    *,
    lookback_days: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=36_500,
            help="Also those seen up to N days before the last fetch.",
        ),
    ] = 1,
    where: WhereOption = None,
    cohort_id: CohortOption = None,
    output_properties: OutputPropertiesOption = None,
    group_id: GroupOption = None,
    max_workers: ProfileWorkersOption = None,
    history: HistoryOption = False,
    dry_run: DryRunOption = False,
    no_progress: NoProgressOption = False,
    _account: AccountOption = None,
    db: DatabaseOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOptions,
) -> None:  # fmt: skip
    """Update a table of profiles with those seen since it was fetched.

    The table is `profiles` unless it is named; a new one gets all profiles. Costs one query.
    Deleted profiles stay until `mp fetch profiles --replace`.
    """
    table = name or "profiles"
    query: dict[str, Any] = {
        "lookback_days": lookback_days, "where": where, "cohort_id": cohort_id,
        "output_properties": output_properties, "group_id": group_id, "max_workers": max_workers,
        "history": history,
    }  # fmt: skip
    if dry_run:
        show_profile_plan(
            lambda opened: opened.plan_profile_sync(table, **query), db, base_url, output
        )
        return
    run_fetch(
        table,
        "pages",
        lambda opened, reporter: opened.sync_profiles(
            table, progress=reporter.progress, **query
        ),
        output, db=db, base_url=base_url, no_progress=no_progress,
    )  # fmt: skip


COMMANDS: "tuple[Command, ...]" = (
    ("events", events, EVENTS),
    ("profiles", profiles, PROFILES),
    ("sync", sync, SYNC),
    ("sync-profiles", sync_profiles, SYNC_PROFILES),
)
