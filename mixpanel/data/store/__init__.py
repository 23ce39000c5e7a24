"""The local DuckDB database.

`Database` opens and queries it; `Database.begin_events` and `begin_profiles` load data into tables.
"""

from mixpanel.data.store.database import Database, FetchedEvents
from mixpanel.data.store.event_load import Load
from mixpanel.data.store.parts import Staged
from mixpanel.data.store.profile_load import ProfilesLoad
from mixpanel.data.store.staging import Loaded, Mode

__all__ = [
    "Database",
    "FetchedEvents",
    "Load",
    "Loaded",
    "Mode",
    "ProfilesLoad",
    "Staged",
]
