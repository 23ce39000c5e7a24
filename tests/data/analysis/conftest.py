"""Tables of events, as a fetch makes them and as the emulator keeps them."""

import json

import duckdb
import pytest

from mixpanel.data.analysis.source import EventSource

STORE = (
    "CREATE OR REPLACE TABLE fetched AS SELECT unnest($names::VARCHAR[]) AS event_name, "
    "make_timestamp_ms(unnest($times::BIGINT[])) AS event_time, "
    "unnest($users::VARCHAR[]) AS distinct_id, unnest($ids::VARCHAR[]) AS insert_id, "
    "unnest($properties::JSON[]) AS properties"
)
EMULATOR = (
    "CREATE OR REPLACE TABLE kept AS SELECT unnest($names::VARCHAR[]) AS event, "
    "unnest($times::BIGINT[]) AS time, unnest($users::VARCHAR[]) AS distinct_id, "
    "unnest($ids::VARCHAR[]) AS insert_id, unnest($properties::JSON[]) AS properties, "
    "generate_subscripts($names::VARCHAR[], 1) AS seq"
)
FETCHED = EventSource("main.fetched")
KEPT = EventSource(
    "main.kept", event="event", time="make_timestamp_ms(time)", insert_id="insert_id", version="seq"
)


class Tables:
    """One DuckDB in memory, whose tables are made anew for each set of events."""

    def __init__(self):
        self.connection = duckdb.connect(":memory:")

    def put(self, events):
        """Make both tables."""
        values = {
            "names": [each.name for each in events],
            "times": [each.time for each in events],
            "users": [each.user for each in events],
            "ids": [each.insert_id for each in events],
            "properties": [
                json.dumps(each.properties, separators=(",", ":"), ensure_ascii=False)
                for each in events
            ],
        }
        self.connection.execute(STORE, values)
        self.connection.execute(EMULATOR, values)

    def run(self, query):
        """Run a report, and return its result."""
        return query.read(self.connection.execute(query.statement, query.parameters).fetchall())

    def run_as_shown(self, query):
        """Run a report by the statement that it shows, and return its result."""
        return query.read(self.connection.execute(query.sql).fetchall())


@pytest.fixture(scope="module")
def tables():
    """Lend a database in memory."""
    found = Tables()
    yield found
    found.connection.close()
