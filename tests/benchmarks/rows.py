"""The benchmarks by name: what is measured, against whom, and the figure we mean to hold."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.archive import Archive
from tests.benchmarks.ring import HERE, Contestant, Result, compete, interpreter, run_json
from tests.benchmarks.sink import Sink

MILLION = 1_000_000
TEN = 10 * MILLION


@dataclass
class Row:
    """One benchmark's results, ours first, and what was hoped for.

    `at_most` and `at_least` are for our own best figure, `times` for how many times better than
    each peer it is; `each_at_most` is for further results of ours, by label.
    """

    name: str
    how: str
    results: list[Result]
    at_most: float | None = None
    at_least: float | None = None
    times: dict[str, float] = field(default_factory=dict)
    each_at_most: dict[str, float] = field(default_factory=dict)


def cost() -> Row:
    """Cost of tracking into the buffer."""
    results = compete(
        [
            Contestant("ours, await track", "ours", "cost", 1_900),
            Contestant("ours, and its sender", "ours", "cost", 8_000),
            Contestant("official", "official", "cost", 8_000, {"sending": True}),
            Contestant("official, its own part", "official", "cost", 8_000),
            Contestant("posthog", "posthog", "cost", 8_000),
        ],
        "microseconds",
        rounds=4,
    )
    how = (
        "what the caller waits for: official's track sends each 50th time, to the loopback sink; "
        "its own part is without that. Ours is without a batch that is due, and with a sender that "
        "shares the loop. PostHog's thread does not run"
    )
    times = {"official": 4.0, "posthog": 5.0}
    return Row("track into the buffer", how, results, at_most=8.0, times=times)


def delivered() -> Row:
    """Delivered events, loopback."""
    results = compete(
        [
            Contestant("ours", "ours", "buffered", 100_000),
            Contestant("official", "official", "buffered", 30_000),
            Contestant("posthog", "posthog", "buffered", 15_000),
        ],
        "per_second",
    )
    times = {"official": 3.0, "posthog": 7.0}
    how = "from the first track to the end of flush, once warm; the sink counts what arrived"
    return Row("delivered, loopback", how, results, at_least=100_000, times=times)


def spool() -> Row:
    """Delivered events with a spool, beside those in memory."""
    results = compete(
        [
            Contestant("ours, process", "ours", "buffered", 60_000, {"durability": "process"}),
            Contestant("ours, power", "ours", "buffered", 60_000, {"durability": "power"}),
            Contestant("in memory", "ours", "buffered", 60_000),
        ],
        "per_second",
    )
    how = "as delivered; each message is on disk before it is sent, and deleted when delivered"
    return Row("spool, loopback", how, results, times={"in memory": 0.6})


def track_latency() -> Row:
    """Latency of tracking at 5,000 events a second, with a spool and without."""
    kinds = {"ours, process": "process", "ours, power": "power", "ours, in memory": ""}
    results = [Result(f"{name}: p99", [], "us", more_is_better=False) for name in kinds]
    with Sink() as sink:
        for result, (name, durability) in zip(results, kinds.items(), strict=True):
            options = {"durability": durability} if durability else {}
            measured = Contestant(name, "ours", "track_latency", 6, options).run(sink)
            result.figures.append(measured["p99"])
            result.notes = {key: round(measured[key]) for key in ("p50", "p999", "max")}
    how = "5,000 events/s for 6 s; what `await track` takes while the writer's thread commits"
    return Row("latency of track", how, results, at_most=200.0)


def backlog() -> Row:
    """A spool with a million messages: the start, the memory, and the drain."""
    with Sink() as sink:
        measured = Contestant("ours, start", "ours", "backlog", MILLION).run(sink)
    start = Result("ours, start", [measured["start_ms"]], "ms", more_is_better=False)
    start.notes = {
        "drained /s": round(measured["per_second"]), "grown by MB": round(measured["grown"], 1)
    }  # fmt: skip
    how = "1,000,000 messages of an earlier process; until their number is known, then the drain"
    return Row("backlog of a spool", how, [start], at_most=1000.0)


def latency() -> Row:
    """Delivered events, 50 ms away."""
    results = compete(
        [
            Contestant("ours", "ours", "buffered", 100_000),
            Contestant("official", "official", "buffered", 2_000),
            Contestant("posthog", "posthog", "buffered", 4_000),
        ],
        "per_second",
        latency=50,
        rounds=3,
    )
    how = "the sink waits 50 ms before each answer"
    return Row("delivered, 50 ms away", how, results, times={"official": 50.0})


def customerio() -> Row:
    """Delivered events of the Customer.io clients."""
    peer = Contestant("customerio-cdp-analytics", "customerio", "buffered", 15_000)
    return beside_the_vendors("Customer.io", "customerio", peer)


def hightouch() -> Row:
    """Delivered events of the Hightouch clients."""
    peer = Contestant("htevents", "htevents", "buffered", 15_000)
    return beside_the_vendors("Hightouch", "hightouch", peer)


def beside_the_vendors(name: str, vendor: str, peer: Contestant) -> Row:
    # Whole batches, or the peer's flush would wait half a second for the last to fill.
    assert peer.count % 100 == 0
    ours = Contestant("ours", "ours", "segment", 60_000, {"vendor": vendor})
    how = (
        "as above; both as they come, one request at a time, the peer's of 100 messages, ours of "
        "up to 475,000 bytes; ours waits when its buffer is full, and the peer, which would drop, "
        "has a queue for everything"
    )
    results = compete([ours, peer], "per_second")
    return Row(f"{name}, loopback", how, results, times={peer.label: 7.0})


def oauth() -> Row:
    """Delivered events of the Hightouch client with access tokens."""
    plain = {"vendor": "hightouch"}
    results = compete(
        [
            Contestant("with OAuth", "ours", "segment", 60_000, {**plain, "oauth": True}),
            Contestant("without", "ours", "segment", 60_000, plain),
        ],
        "per_second",
        rounds=9,
    )
    how = "ours with and without; the warm-up gets the token, which lasts for an hour"
    return Row("Hightouch with OAuth", how, results, times={"without": 0.9})


def at_once() -> Row:
    """Unbuffered calls of the sync Consumer."""
    results = compete(
        [
            Contestant("ours", "ours", "at_once", 1_500),
            Contestant("official", "official", "at_once", 1_500),
        ],
        "per_second",
        rounds=7,
    )
    how = "one request a call, one thread, one connection"
    return Row("unbuffered sync Consumer", how, results, times={"official": 1.0})


def sync_buffered() -> Row:
    """The sync BufferedConsumer."""
    results = compete(
        [
            Contestant("ours, 50", "ours", "sync_buffered", 20_000),
            Contestant("ours, 2000", "ours", "sync_buffered", 60_000, {"size": 2000}),
            Contestant("official", "official", "buffered", 20_000),
        ],
        "per_second",
    )
    how = "batches of 50, as the official one; and of 2,000, which it cannot"
    return Row("sync BufferedConsumer", how, results)


def imports() -> Row:
    """Time to import."""
    timed = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1e3)"
    contestants = {
        "ours": ("ours", "import mixpanel"),
        "ours, AsyncMixpanel": ("ours", "from mixpanel import AsyncMixpanel"),
        "official": ("official", "import mixpanel"),
        "posthog": ("posthog", "import posthog"),
    }
    results = [Result(label, [], "ms", more_is_better=False) for label in contestants]
    for _ in range(11):
        for (who, statement), result in zip(contestants.values(), results, strict=True):
            command = [interpreter(who), "-P", "-c", timed.format(statement)]
            result.figures.append(run_json(command, who))
    return Row("import", "in a fresh interpreter, files cached", results, at_most=80.0)


def memory(seconds: int = 20) -> Row:
    """Memory at 10,000 events a second."""
    with Sink() as sink:
        driver = Contestant("ours, peak RSS", "ours", "memory", seconds)
        measured = driver.run(sink)
    peak = Result(driver.label, [measured["megabytes"]], "MB", more_is_better=False)
    peak.notes = {
        "lost": int(measured["events"] - measured["arrived"]),
        "grown by MB": round(measured["grown"], 2),
        "events": int(measured["events"]),
    }
    how = f"{seconds} s; growth is the last quarter's mean less the second quarter's"
    return Row("memory at 10,000 events/s", how, [peak], at_most=120.0)


def lag(rounds: int = 3) -> Row:
    """Event-loop lag at 10,000 events a second."""
    loads = {"ours, 10,000/s": 10_000, "ours, 30,000/s": 30_000, "idle": 0}
    results = [Result(f"{load}: max", [], "ms", more_is_better=False) for load in loads]
    with Sink() as sink:
        for _ in range(rounds):
            for result, (load, rate) in zip(results, loads.items(), strict=True):
                measured = Contestant(load, "ours", "lag", 5, {"rate": rate}).run(sink)
                result.figures.append(measured["max"])
                for note in ("p99", "busy", "first"):
                    seen = result.notes.get(note, measured[note])
                    result.notes[note] = round(min(seen, measured[note]), 2)
                lost = int(measured["events"] - measured["arrived"])
                result.notes["lost"] = result.notes.get("lost", 0) + lost
    how = "how late a 1 ms sleep wakes, flushes and all; an idle loop shows the machine's own share"
    return Row("event-loop lag", how, results, at_most=10.0)


def soak(seconds: int = 60) -> Row:
    """Steady tracking for long: what is dropped, memory, and event-loop lag."""
    loads = {
        "ours, in memory, 10,000/s": {"rate": 10_000},
        "ours, spool, 5,000/s": {"rate": 5_000, "durability": "process"},
    }
    results = []
    for label, options in loads.items():
        with Sink() as sink:  # each has a lifetime
            measured = Contestant(label, "ours", "soak", seconds, options).run(sink)
        result = Result(label, [measured["p99"]], "ms", more_is_better=False)
        result.notes = {
            "events": int(measured["events"]),
            "dropped": int(measured["dropped"]),
            "not arrived": int(measured["events"] - measured["arrived"]),
            **{f"{when} MB": round(measured[when], 1) for when in ("start", "middle", "end")},
            **{
                f"lag {share}": round(measured[share], 2)
                for share in ("p50", "p99", "p99.9", "max")
            },
        }
        results.append(result)
    how = (
        f"{seconds} s each, after one second; the figure is how late a 1 ms sleep wakes (99th "
        "percentile); memory is the mean of a twentieth of the time"
    )
    return Row("soak", how, results)


def backlog_bytes(gigabytes: int = 3) -> Row:
    """A spool with gigabytes of large messages: the start, and memory while it is drained."""
    with Sink() as sink:
        measured = Contestant("ours, start", "ours", "backlog_bytes", gigabytes).run(sink)
    start = Result("ours, start", [measured["start_ms"]], "ms", more_is_better=False)
    names = ("messages", "drained_mb", "mb_per_second", "grown")
    start.notes = {name: round(measured[name], 1) for name in names}
    how = (
        f"{gigabytes} GB of an earlier process in messages of 98 kB; until their number is known, "
        "then a drain of up to a minute; grown: the most memory above that at the start, in MB"
    )
    return Row("backlog of gigabytes", how, [start], at_most=1000.0)


def flag() -> Row:
    """One local flag with a rule."""
    results = compete(
        [
            Contestant("ours", "ours", "flag", 20_000),
            Contestant("ours, known user", "ours", "flag", 20_000, {"known": True}),
            Contestant("ours, exposures", "ours", "flag", 20_000, {"exposures": True}),
            Contestant(
                "ours, known, exposures", "ours", "flag", 20_000, {"known": True, "exposures": True}
            ),
            Contestant("ours, json-logic", "ours", "flag", 10_000, {"rule_engine": "json-logic"}),
            Contestant("official", "official", "flag", 5_000),
            Contestant("launchdarkly", "launchdarkly", "flag", 5_000),
            Contestant("launchdarkly, + Context", "launchdarkly", "flag", 5_000, {"making": True}),
            Contestant("growthbook", "growthbook", "flag", 5_000),
            Contestant("posthog", "posthog", "flag", 5_000),
        ],
        "microseconds",
    )
    how = (
        "a rule of 3 clauses, 90 % of users, 2 variants; 5 properties, no exposure unless it says "
        "so, each call a user not seen before; peers remember no user"
    )
    figures = {"ours, known user": 0.5}
    return Row("local flag", how, results, at_most=3.0, each_at_most=figures)


def flags100() -> Row:
    """A hundred local flags for one user."""
    contestants = ("ours", "official", "launchdarkly", "growthbook", "posthog")
    results = compete(
        [Contestant(who, who, "flags100", 2_000 if who == "ours" else 300) for who in contestants],
        "microseconds",
    )
    how = (
        "all flags for a user not seen before, one in five with the rule; a snapshot's get_all, "
        "official's get_all_variants, LaunchDarkly's all_flags_state, PostHog's get_all_flags, "
        "and GrowthBook's eval_feature for each"
    )
    return Row("100 local flags", how, results, at_most=150.0)


def fetched() -> Row:
    """A million events from the server into DuckDB."""
    tasks = {
        "ours": "fetch",
        "DuckDB, from disk": "disk",
        "row by row": "rowwise",
        "ours, first row under load": "first_row",
    }
    results = {
        name: Result(name, [], "ms" if task == "first_row" else "/s", task != "first_row")
        for name, task in tasks.items()
    }
    peaks: dict[int, float] = {}
    for days, rounds in ((4, 3), (30, 1)):
        with (
            TemporaryDirectory() as folder,
            Archive(Path(folder), MILLION, days) as archive,
        ):
            for name, task in list(tasks.items()) * rounds if days == 4 else [("ours", "fetch")]:
                where = archive.url if task in ("fetch", "first_row") else str(archive.plain)
                command = [sys.executable, HERE / "peer_data.py", task, where, str(archive.last)]
                measured = run_json(command, "ours")
                if name == "ours":
                    peaks[days] = max(peaks.get(days, 0), round(measured["megabytes"]))
                if days == 4:
                    figure = measured["seconds"] * 1e3
                    if task != "first_row":
                        figure = measured["rows"] / measured["seconds"]
                    results[name].figures.append(figure)
    results["ours"].notes = {f"peak MB, {days} days": peak for days, peak in peaks.items()}
    how = (
        "1,000,000 events (340 MB), gzipped by a loopback server, 4 days, into a file: checked, "
        "merged and committed; DuckDB reads the plain file from disk and only shapes it"
    )
    times = {"DuckDB, from disk": 1 / 1.5}
    return Row("fetch into DuckDB", how, list(results.values()), at_least=250_000, times=times)


def segmented() -> Row:
    """A segmentation of a million local events."""
    return reported("segmentation", "by plan and day, of one event in eight")


def funnelled() -> Row:
    """A funnel over a million local events."""
    return reported("funnel", "three steps within 7 days, each user's best attempt")


def retained() -> Row:
    """Retention over a million local events."""
    return reported("retention", "31 cohorts, 11 intervals of 24 hours")


def compounded() -> Row:
    """Compounded retention over a million local events: each user is in nearly every cohort."""
    return reported("compounded", "any event, 31 cohorts of 11 intervals, all users in most")


def reported(report: str, how: str) -> Row:
    tasks = {"ours": "ours", "SQL by hand": "hand", "pandas, from memory": "pandas"}
    results = {
        label: Result(label, [], "s", more_is_better=False) for label in (*tasks, f"ours, {TEN:,}")
    }
    with TemporaryDirectory() as folder:
        for events, chosen in ((MILLION, tasks), (TEN, {f"ours, {TEN:,}": "ours"})):
            path, answers = Path(folder) / f"{events}.db", set()
            run_json([sys.executable, HERE / "peer_reports.py", "make", path, str(events)], "ours")
            for label, task in chosen.items():
                command = [sys.executable, HERE / "peer_reports.py", task, path, report]
                measured = run_json(command, "ours")
                answers.add(measured["answer"])
                results[label].figures.append(measured["seconds"])
                results[label].notes["peak MB"] = round(measured["megabytes"])
            assert len(answers) == 1, answers
            path.unlink()
    return Row(
        f"local {report}" + (" retention" if report == "compounded" else ""),
        f"1,000,000 events in a DuckDB file, {how}; best of 3 once warm, and all agree; pandas has "
        "its frame in memory, with the property as a column",
        list(results.values()),
        at_most=1.0,
        times={"SQL by hand": 0.5},
    )


def typed() -> Row:
    """Creation of a typed table of wide events."""
    return _typed(
        "typed table", "typed", "read_ndjson", 1.5,
        "30,000 events of 200 properties in a file: inferred from all values, and written; "
        "DuckDB reads the gzipped file with the columns stated",
    )  # fmt: skip


def typed_grouped() -> Row:
    """Ten typed columns, grouped."""
    return _typed(
        "ten typed columns, grouped", "grouped typed", "grouped plain", 1.2,
        "sums of ten of 200 columns by a text, of the typed table and of the one DuckDB wrote",
    )  # fmt: skip


def _typed(name: str, ours: str, peer: str, bound: float, how: str) -> Row:
    measured = run_json([sys.executable, HERE / "peer_typed.py", "30000"], "ours")
    results = [
        Result(label, [measured[key]], "s", more_is_better=False)
        for label, key in (("ours", ours), ("DuckDB", peer))
    ]
    results[0].notes = {
        "CPU ratio": round(measured[f"{ours} cpu"] / measured[f"{peer} cpu"], 2),
        "peak MB of both": round(measured["megabytes"]),
    }
    return Row(name, how, results, times={"DuckDB": 1 / bound})


def loaded() -> Row:
    """A million narrow events from gzipped files."""
    return _loaded("narrow", MILLION, 1.3)


def loaded_3m() -> Row:
    """Three million narrow events from gzipped files."""
    return _loaded("narrow", 3 * MILLION, 1.1)


def loaded_names() -> Row:
    """Events with properties of ten thousand names."""
    return _loaded("names", 300_000, 1.3)


def loaded_wide() -> Row:
    """Events with 200 properties each."""
    return _loaded("wide", 100_000, 1.3)


def _loaded(kind: str, events: int, bound: float) -> Row:
    how = {
        "narrow": "9 properties each", "names": "12 properties each of 10,000 names",
        "wide": "200 properties each",
    }[kind]  # fmt: skip
    with TemporaryDirectory() as folder:
        driver = [sys.executable, HERE / "peer_load.py"]
        subprocess.run([*driver, "make", folder, kind, str(events)], check=True)
        results = _in_turns(driver, {"ours": "ours", "DuckDB": "duckdb"}, folder)
    return Row(
        f"load of {events:,} {kind} events",
        f"gzipped files of 4 days, {how}, loaded in one call: checked, merged and committed; "
        "DuckDB's read_ndjson makes a table of the same columns from the same files, unchecked",
        results,
        times={"DuckDB": 1 / bound},
    )


def queried() -> Row:
    """Ten million rows of `mp query sql` as CSV."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.db"
        driver = [sys.executable, HERE / "peer_load.py"]
        subprocess.run([*driver, "rows", path, str(TEN)], check=True)
        results = _in_turns(driver, {"ours": "query", "COPY": "copy"}, str(path))
    return Row(
        f"mp query sql, {TEN:,} rows to CSV",
        "a whole process of `mp query sql`, written to a file; DuckDB's COPY of the same table",
        results,
        times={"COPY": 1 / 1.3},
    )


INTERRUPTED = {
    "ours, query sql, no row yet": [
        "query", "sql", "SELECT count(*) FROM t a, t b WHERE a.amount > b.amount"
    ],
    "ours, query sql, to CSV": ["query", "sql", "FROM pairs", "--format", "csv"],
    "ours, export csv": ["export", "csv", "-", "--sql", "FROM pairs"],
    "ours, export parquet": ["export", "parquet", "TARGET", "--sql", "FROM pairs"],
    "ours, inspect summarize": ["inspect", "summarize", "pairs"],
}  # fmt: skip


def interrupted(rounds: int = 5) -> Row:
    """The time from Ctrl-C to the end of `mp`."""
    with TemporaryDirectory() as folder:
        path, target = Path(folder) / "rows.db", Path(folder) / "target"
        subprocess.run([sys.executable, HERE / "peer_load.py", "rows", path, str(TEN)], check=True)
        results = []
        for label, arguments in INTERRUPTED.items():
            command = [sys.executable, "-m", "mixpanel.cli", *arguments, "--db", str(path)]
            command = [str(target) if part == "TARGET" else part for part in command]
            seconds = [_seconds_to_end(command) for _ in range(rounds)]
            results.append(
                Result(label, [max(seconds)], "s", more_is_better=False, notes={"rounds": rounds})
            )
        left = [each.name for each in Path(folder).iterdir() if each.name != path.name]
    if left:
        raise SystemExit(f"an interrupted command left {left}")
    return Row(
        "mp, interrupted by SIGINT",
        f"tables of {TEN:,} rows; the longest of {rounds}; each ends with 130 and no traceback",
        results,
        each_at_most=dict.fromkeys(INTERRUPTED, 0.5),
    )


def _seconds_to_end(command: list[str]) -> float:
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(3.0)  # the statement runs by then
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, message = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    if process.returncode != 130 or "Traceback" in message:
        raise SystemExit(f"{command} ended with {process.returncode}: {message}")
    return seconds


def _in_turns(
    driver: list[Any], tasks: dict[str, str], where: str, rounds: int = 2
) -> list[Result]:
    results = {label: Result(label, [], "s", more_is_better=False) for label in tasks}
    for _ in range(2):
        for label, task in tasks.items():
            measured = run_json([*driver, task, where], "ours")
            result = results[label]
            result.figures.append(measured["seconds"])
            for note, figure in (("peak MB", "megabytes"), ("CPU s", "cpu")):
                seen = result.notes.get(note, measured[figure])
                better = max if note == "peak MB" else min
                result.notes[note] = round(better(seen, measured[figure]), 1)
    return list(results.values())


ROWS: dict[str, Callable[..., Row]] = {
    row.__name__: row
    for row in (
        cost,
        delivered,
        spool,
        track_latency,
        backlog,
        latency,
        customerio,
        hightouch,
        oauth,
        at_once,
        sync_buffered,
        imports,
        memory,
        lag,
        soak,
        backlog_bytes,
        flag,
        flags100,
        fetched,
        segmented,
        funnelled,
        retained,
        compounded,
        loaded,
        loaded_3m,
        loaded_names,
        loaded_wide,
        typed,
        typed_grouped,
        queried,
        interrupted,
    )
}
