"""What each report should say, in slow and obvious Python."""

import itertools
import json
import math
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MISSING = object()
LENGTHS = {"day": 86_400_000, "week": 604_800_000, "month": 30 * 86_400_000}


@lru_cache(100_000)
def wall_clock(zone, time):
    """Return what a clock in a zone shows at a time."""
    moment = (EPOCH + timedelta(milliseconds=time)).astimezone(ZoneInfo(zone))
    return moment.replace(tzinfo=None)


@lru_cache(10_000)
def bucket_of(zone, time, unit):
    """Return the label of the bucket of a time."""
    wall = wall_clock(zone, time)
    if unit == "minute":
        return wall.strftime("%Y-%m-%d %H:%M:00")
    if unit == "hour":
        return wall.strftime("%Y-%m-%d %H:00:00")
    day = wall.date()
    if unit == "week":
        day -= timedelta(days=day.weekday())
    return str(day.replace(day=1) if unit == "month" else day)


@lru_cache(10_000)
def all_buckets(zone, first, last, unit):
    """Return the labels of all buckets, by looking at the clock each minute."""
    start = datetime.combine(first, datetime.min.time(), UTC) - timedelta(hours=30)
    found = {}
    for minute in range((last - first).days * 1440 + 1440 + 3600):
        time = (start - EPOCH) // timedelta(milliseconds=1) + minute * 60_000
        if first <= wall_clock(zone, time).date() <= last:
            found[bucket_of(zone, time, unit)] = None
    return sorted(found)


class Event(NamedTuple):
    """One event; `time` is in milliseconds."""

    name: str
    time: int
    user: str | None
    insert_id: str | None
    properties: dict


class Report(NamedTuple):
    """Events and the days that are looked at."""

    events: list
    zone: str
    first: date
    last: date

    def wall(self, time):
        """Return the clock of the project at a time."""
        return wall_clock(self.zone, time)

    def within(self, name=None):
        """Return the events of the days, of one name or all."""
        return [
            each
            for each in self.events
            if self.first <= self.wall(each.time).date() <= self.last and name in (None, each.name)
        ]

    def bucket(self, time, unit):
        """Return the label of the bucket of a time."""
        return bucket_of(self.zone, time, unit)

    def buckets(self, unit):
        """Return the labels of all buckets."""
        return all_buckets(self.zone, self.first, self.last, unit)


def latest(events):
    """Return the last copy of each event; what has no id is nothing but itself."""
    kept = {}
    for number, each in enumerate(events):
        key = (each.name, each.time, each.user, each.insert_id, None if each.insert_id else number)
        kept[key] = each
    return list(kept.values())


def user(event):
    return event.user or None


def text(event, name):
    """Return the text of a property, by which events are segmented."""
    value = event.properties.get(name, MISSING)
    if value is MISSING:
        return "undefined"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def number(event, name):
    """Return a property that is a number, else None."""
    value = event.properties.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else None


def measure(events, kind):
    known = [user(each) for each in events if user(each)]
    if kind == "general":
        return len(events)
    if kind == "unique":
        return len(set(known))
    return len(known) / len(set(known)) if known else 0


def counted(report, events, unit, kind, segment, names=None, limit=None):
    """Return the series, and whether a limit cut it."""
    groups = defaultdict(list)
    for each in events:
        groups[segment(each)].append(each)
    order = names or sorted(groups, key=lambda name: (-len(groups[name]), name))
    limit = len(order) if limit is None else limit
    series = {}
    for name in order[:limit]:
        dates = {}
        for bucket in report.buckets(unit):
            inside = [each for each in groups[name] if report.bucket(each.time, unit) == bucket]
            dates[bucket] = measure(inside, kind)
        series[name] = dates
    return series, len(order) > limit


# ---- funnels ------------------------------------------------------------------------------------


def attempts(report, steps, window_ms):
    """Return for each entry: user, first event, times of the steps that were reached in time."""
    of_user = defaultdict(list)
    for each in report.events:
        if user(each):
            of_user[each.user].append(each)
    for entry in report.within(steps[0]):
        if user(entry):
            yield entry, longest(of_user[entry.user], steps, [entry], window_ms)


def longest(events, steps, done, window_ms):
    """Return the times of the longest continuation, the earliest of equals; tries them all."""
    best = [each.time for each in done]
    if len(done) == len(steps):
        return best
    name = steps[len(done)]
    for each in events:
        again = name in steps[: len(done)]
        later = each.time > done[-1].time if again else each.time >= done[-1].time
        if each.name == name and later and each.time - done[0].time <= window_ms:
            found = longest(events, steps, [*done, each], window_ms)
            if (-len(found), found) < (-len(best), best):
                best = found
    return best


def funnel(found, steps, group=lambda _: None):
    """Return the counts and average times in seconds of each group of attempts."""
    best = {}
    for entry, times in found:
        key = (group(entry), entry.user)
        if key not in best or (-len(times), times) < (-len(best[key]), best[key]):
            best[key] = times
    result = {}
    for name in {name for name, _ in best}:
        users = [times for (at, _), times in best.items() if at == name]
        counts, gaps, totals = [], [], []
        for n in range(len(steps)):
            far = [times for times in users if len(times) > n]
            counts.append(len(far))
            gaps.append(mean([(t[n] - t[n - 1]) / 1000 for t in far]) if n else None)
            totals.append(mean([(t[n] - t[0]) / 1000 for t in far]) if n else None)
        result[name] = (counts, gaps, totals)
    return result


def mean(values):
    return sum(values) / len(values) if values else None


# ---- retention and frequency --------------------------------------------------------------------


def cohorts(report, unit, interval):
    """Return the first days of all cohorts."""
    day = report.first
    if unit == "week":
        day -= timedelta(days=day.weekday())
    if unit == "month":
        day = day.replace(day=1)
    every = [day]
    while (day := day + timedelta(days=1)) <= report.last:
        begins = {"day": True, "week": day.weekday() == 0, "month": day.day == 1}
        if begins[unit]:
            every.append(day)
    return every[::interval]


def retention(
    report, born, returned, unit, interval, count, *, compounded, unbounded, segment=lambda _: None
):
    """Return size and counts of each cohort, by segment."""
    starts = cohorts(report, unit, interval)
    births = {}
    ordered = sorted(report.within(returned if compounded else born), key=lambda e: e.time)
    first_of = defaultdict(list)
    for each in ordered:
        if not user(each):
            continue
        cohort = max(start for start in starts if start <= report.wall(each.time).date())
        key = (each.user, cohort if compounded else None)
        births.setdefault(key, (each.time, cohort))
        if births[key][0] == each.time:
            first_of[key].append(segment(each))
    same = compounded or returned in (None, born)
    sizes, cells = Counter(), defaultdict(set)
    for (who, part), (birth, cohort) in births.items():
        name = min(first_of[who, part]) if first_of[who, part][0] is not None else None
        sizes[name, cohort] += 1
        reached = set()
        for each in report.events:
            if each.user != who or returned not in (None, each.name):
                continue
            if each.time > birth or (not same and each.time == birth):
                cell = (each.time - birth) // (LENGTHS[unit] * interval)
                if cell <= count:
                    reached.add(cell)
        for n in range(count + 1):
            if n in reached or (unbounded and any(cell >= n for cell in reached)):
                cells[name, cohort, n].add(who)
    names = {name for name, _ in sizes}
    return {
        name: [
            (str(start), sizes[name, start], [len(cells[name, start, n]) for n in range(count + 1)])
            for start in starts
        ]
        for name in names
    }


def frequency(report, events, unit, sub_unit):
    """Return for each bucket how many users were active in at least 1, 2, … sub-units."""
    active = defaultdict(set)
    for each in events:
        if user(each):
            bucket = report.bucket(each.time, unit)
            active[bucket, each.user].add(report.bucket(each.time, sub_unit))
    result = {}
    for bucket in report.buckets(unit):
        day = date.fromisoformat(bucket)
        days = {"day": 1, "week": 7}.get(unit)
        if days is None:
            days = ((day.replace(day=28) + timedelta(days=4)).replace(day=1) - day).days
        most = days * 24 if sub_unit == "hour" else days
        times = [len(units) for (at, _), units in active.items() if at == bucket]
        result[bucket] = tuple(sum(n >= k for n in times) for k in range(1, most + 1))
    return result


# ---- numbers and flows --------------------------------------------------------------------------


def width_of(values):
    """Return the width of the ranges of numbers: 1, 2 or 5 times a power of ten."""
    span = max(values) - min(values)
    if span == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 10))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= span / 10 or n == 10)


def paths(report, anchor, reverse, forward, window_ms, *, unique, collapse, hidden):
    """Return how often each path was: `reverse` events before, the anchor, `forward` after."""
    of_user = defaultdict(list)
    for each in report.events:
        if user(each) and each.name not in hidden:
            of_user[each.user].append(each)
    inside = {id(each) for each in report.within(anchor)}
    found = Counter()
    for events in of_user.values():
        ordered = sorted(events, key=lambda e: (e.time, e.name, id(e) not in inside))
        if collapse:
            ordered = [next(run) for _, run in itertools.groupby(ordered, key=lambda e: e.name)]
        anchors = [n for n, each in enumerate(ordered) if id(each) in inside]
        for n in anchors[:1] if unique else anchors:
            near = ordered[max(0, n - reverse) : n]
            before = [e.name for e in near if ordered[n].time - e.time <= window_ms]
            after = [
                e.name
                for e in ordered[n + 1 : n + 1 + forward]
                if e.time - ordered[n].time <= window_ms
            ]
            found[
                (None,) * (reverse - len(before))
                + (*before, anchor, *after)
                + (None,) * (forward - len(after))
            ] += 1
    return found
