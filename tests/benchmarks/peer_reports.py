"""Reports over a table of events: ours, SQL written by hand, and pandas, in a process each.

python peer_reports.py make FILE EVENTS
python peer_reports.py TASK FILE REPORT
"""

import json
import resource
import sys
import time

import duckdb

NAMES = "Opened App,Signed Up,Viewed Item,Order Paid,Refund,Shared,Searched,Logged Out"
DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-31"}
STEPS = ["Opened App", "Viewed Item", "Order Paid"]
ROUNDS = 3
MAKE = """
    CREATE TABLE events AS SELECT
        string_split($names, ',')[1 + any_of(i, 8)] AS event_name,
        make_timestamp_ms(1767225600000 + any_of(i * 7 + 1, 31 * 86400000::BIGINT)) AS event_time,
        'user-' || lpad(any_of(i * 13 + 5, $events // 50)::VARCHAR, 8, '0') AS distinct_id,
        'id' || i AS insert_id,
        json_object(
            'plan', ['free', 'team', 'pro', 'enterprise'][1 + any_of(i * 3, 4)],
            'amount', any_of(i * 5, 10000) / 100,
            'country', ['DE', 'US', 'FR', 'JP', 'IN', 'BR'][1 + any_of(i * 11, 6)],
            'url', 'https://example.com/' || any_of(i, 1000) || '/page',
            'title', 'A page about item number ' || any_of(i * 17, 5000),
            'referrer', 'https://search.example.com/q=' || any_of(i, 300)
        ) AS properties
    FROM range($events) AS numbers(i)
"""
BY_HAND = {
    "segmentation": """
        SELECT properties->>'plan' AS plan, event_time::DATE AS day, count(*) FROM events
        WHERE event_name = 'Order Paid'
            AND event_time >= '2026-01-01' AND event_time < '2026-02-01'
        GROUP BY ALL ORDER BY ALL
    """,
    "funnel": """
        WITH a AS (SELECT distinct_id, event_time AS t1 FROM events
            WHERE event_name = 'Opened App'
                AND event_time >= '2026-01-01' AND event_time < '2026-02-01'),
        b AS (SELECT distinct_id, event_time AS t2 FROM events WHERE event_name = 'Viewed Item'),
        c AS (SELECT distinct_id, event_time AS t3 FROM events WHERE event_name = 'Order Paid'),
        paths AS (SELECT a.distinct_id, t1, t2, t3 FROM a
            ASOF LEFT JOIN b ON a.distinct_id = b.distinct_id AND t1 <= t2
            ASOF LEFT JOIN c ON b.distinct_id = c.distinct_id AND t2 <= t3),
        users AS (SELECT distinct_id, max(CASE WHEN t3 <= t1 + INTERVAL 7 DAY THEN 3
            WHEN t2 <= t1 + INTERVAL 7 DAY THEN 2 ELSE 1 END) AS reached FROM paths GROUP BY ALL)
        SELECT count(*), count(*) FILTER (reached >= 2), count(*) FILTER (reached >= 3) FROM users
    """,
    "retention": """
        WITH births AS (SELECT distinct_id, min(event_time) AS birth FROM events
            WHERE event_name = 'Signed Up'
                AND event_time >= '2026-01-01' AND event_time < '2026-02-01' GROUP BY ALL)
        SELECT birth::DATE AS day, (epoch_ms(event_time) - epoch_ms(birth)) // 86400000 AS n,
            count(DISTINCT distinct_id)
        FROM events JOIN births USING (distinct_id)
        WHERE event_name = 'Order Paid' AND event_time >= birth
            AND event_time < birth + INTERVAL 11 DAY
        GROUP BY ALL ORDER BY ALL
    """,
    "compounded": """
        WITH births AS (SELECT distinct_id, event_time::DATE AS day, min(event_time) AS birth
            FROM events WHERE event_time >= '2026-01-01' AND event_time < '2026-02-01'
            GROUP BY ALL)
        SELECT day, (epoch_ms(event_time) - epoch_ms(birth)) // 86400000 AS n,
            count(DISTINCT distinct_id)
        FROM events JOIN births USING (distinct_id)
        WHERE event_time > birth AND event_time < birth + INTERVAL 11 DAY
        GROUP BY ALL ORDER BY ALL
    """,
}


def make(path: str, events: str) -> None:
    """Write a database with so many events of a month, each user with about fifty."""
    with duckdb.connect(path) as connection:
        connection.execute("CREATE MACRO any_of(x, n) AS (hash(x) % n::UBIGINT)::BIGINT")
        connection.execute(MAKE, {"events": int(events), "names": NAMES})
        connection.execute("DROP MACRO any_of")


def best(run):
    """Return the shortest time of a few rounds, and the last answer."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = run()
        times.append(time.perf_counter() - began)
    return min(times), answer


def ours(path: str, report: str):
    """Ask `ws.local`, and return what it took and a sum to compare."""
    from mixpanel.data import Workspace

    with Workspace.open(path) as ws:
        if report == "segmentation":
            seconds, found = best(
                lambda: ws.local.segmentation("Order Paid", **DAYS, on="plan", limit=10)
            )
            return seconds, found.total
        if report == "funnel":
            seconds, found = best(lambda: ws.local.funnel(STEPS, **DAYS, window=7))
            return seconds, sum(step.count for step in found.steps)
        if report == "compounded":
            seconds, found = best(lambda: ws.local.retention(**DAYS, retention_type="compounded"))
        else:
            seconds, found = best(lambda: ws.local.retention("Signed Up", "Order Paid", **DAYS))
        return seconds, sum(sum(cohort.counts) for cohort in found.cohorts)


def hand(path: str, report: str):
    """Run the SQL by hand, under the limit of memory that a workspace has."""
    from mixpanel.data.store import Database

    with Database.open(path, read_only=True) as database:
        seconds, found = best(lambda: database.sql_rows(BY_HAND[report]).rows)
    return seconds, sum(found[0]) if report == "funnel" else sum(row[2] for row in found)


def pandas(path: str, report: str):
    """Compute from a DataFrame that is in memory already, its one property a column."""
    with duckdb.connect(path, read_only=True) as connection:
        frame = connection.execute(
            "SELECT event_name, event_time, distinct_id, properties->>'plan' AS plan FROM events"
        ).df()
    return best(lambda: FRAMES[report](frame))


def _segmentation(frame):
    paid = frame[frame.event_name == "Order Paid"]
    return int(paid.groupby(["plan", paid.event_time.dt.date]).size().sum())


def _funnel(frame):
    from pandas import Timedelta, merge_asof

    first, *others = (
        frame.loc[frame.event_name == name, ["distinct_id", "event_time"]]
        .rename(columns={"event_time": f"t{n}"})
        .sort_values(f"t{n}")
        for n, name in enumerate(STEPS)
    )
    paths = first
    for n, other in enumerate(others, start=1):
        known = paths.dropna(subset=f"t{n - 1}").sort_values(f"t{n - 1}")
        found = merge_asof(
            known, other, left_on=f"t{n - 1}", right_on=f"t{n}", by="distinct_id",
            direction="forward",
        )  # fmt: skip
        paths = found
    window = Timedelta(days=7)
    reached = 1 + (paths.t1 - paths.t0 <= window).astype(int)
    reached += (paths.t2 - paths.t0 <= window).astype(int)
    users = reached.groupby(paths.distinct_id).max()
    everybody = first.distinct_id.nunique()
    return everybody + int((users >= 2).sum()) + int((users >= 3).sum())


def _retention(frame):
    from pandas import Timedelta

    births = frame[frame.event_name == "Signed Up"].groupby("distinct_id").event_time.min()
    paid = frame[frame.event_name == "Order Paid"].join(births.rename("birth"), on="distinct_id")
    paid = paid[paid.event_time >= paid.birth]
    paid = paid.assign(
        n=(paid.event_time - paid.birth) // Timedelta(days=1), day=paid.birth.dt.date
    )
    cells = paid[paid.n <= 10].groupby(["day", "n"]).distinct_id.nunique()
    return int(cells.sum())


def _compounded(frame):
    from pandas import Timedelta

    events = frame[["distinct_id", "event_time"]]
    births = events.groupby(["distinct_id", events.event_time.dt.date.rename("day")]).min()
    births = births.rename(columns={"event_time": "birth"}).reset_index()
    found = 0
    for _, cohort in births.groupby("day"):  # all at once would take gigabytes
        pairs = events.merge(cohort, on="distinct_id")
        pairs = pairs[pairs.event_time > pairs.birth]
        pairs = pairs.assign(n=(pairs.event_time - pairs.birth) // Timedelta(days=1))
        found += int(pairs[pairs.n <= 10].groupby("n").distinct_id.nunique().sum())
    return found


FRAMES = {
    "segmentation": _segmentation,
    "funnel": _funnel,
    "retention": _retention,
    "compounded": _compounded,
}


def main() -> None:
    task, path, what = sys.argv[1:]
    if task == "make":
        make(path, what)
        print("{}")
        return
    seconds, answer = globals()[task](path, what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "answer": answer, "megabytes": peak}))


if __name__ == "__main__":
    main()
