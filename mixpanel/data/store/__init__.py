"""The only room that knows DuckDB: files of events, and the local database.

`Database` opens it, `Database.begin_events` and `begin_profiles` fill tables, and the rest asks.
"""

from mixpanel.data.readers.files import Columns, _milliseconds, count_rows, read_events, read_rows
from mixpanel.data.store.database import Database
from mixpanel.data.store.event_load import Load
from mixpanel.data.store.parts import Staged
from mixpanel.data.store.profile_load import ProfilesLoad
from mixpanel.data.store.staging import Loaded, Mode

__all__ = [
    "Columns",
    "Database",
    "Load",
    "Loaded",
    "Mode",
    "ProfilesLoad",
    "Staged",
    "_milliseconds",
    "count_rows",
    "read_events",
    "read_rows",
]
