"""What a project has saved: reports, cohorts, lexicon entries, annotations and other objects."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixpanel.emulator._rules.decode import RefusedRequest

DEFAULT_PROJECT = "4242"
WORKSPACE = 77  # the data view that shows the whole project
FIRST_ID = 1001

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What the project's plan allows, and how the insights endpoints report errors."""

    has_query_api: bool = True
    history_days: int | None = None
    errors_as_200: bool = False


class SavedReports:
    """The saved objects of one project, by collection and id; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._collections: dict[str, dict[int, Row]] = {}
        self._schemas: dict[tuple[str, str], Row] = {}
        self._lexicon: dict[tuple[str, str], Row] = {}
        self._next_id = FIRST_ID
        self._projects = {DEFAULT_PROJECT: None}
        self.restrictions = Restrictions()

    def clear(self) -> None:
        """Remove all objects, and lift all restrictions."""
        with self._lock:
            self._collections.clear()
            self._schemas.clear()
            self._lexicon.clear()
            self.restrictions = Restrictions()

    @property
    def projects(self) -> list[str]:
        """The ids of the projects that clients have named; the emulator answers for any."""
        with self._lock:
            return list(self._projects)

    def add_project(self, project_id: str) -> None:
        """Remember the id of a project."""
        if project_id.isdecimal():
            with self._lock:
                self._projects[project_id] = None

    # Objects

    def add(self, collection: str, fields: Mapping[str, Any], *, id_: int | None = None) -> Row:
        """Store an object, and return it with its id."""
        with self._lock:
            number = id_
            if number is None:
                number, self._next_id = self._next_id, self._next_id + 1
            self._next_id = max(self._next_id, number + 1)
            row = {"id": number, **copy.deepcopy(dict(fields))} | {"id": number}
            self._collections.setdefault(collection, {})[number] = row
            return copy.deepcopy(row)

    def rows(self, collection: str) -> list[Row]:
        """Return all objects of a collection, in the order of their creation."""
        with self._lock:
            return copy.deepcopy(list(self._collections.get(collection, {}).values()))

    def get(self, collection: str, id_: int | str) -> Row:
        """Return one object.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._lock:
            return copy.deepcopy(self._find(collection, id_))

    def update(self, collection: str, id_: int | str, fields: Mapping[str, Any]) -> Row:
        """Change fields of an object, and return it.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._lock:
            row = self._find(collection, id_)
            row |= copy.deepcopy({key: value for key, value in fields.items() if key != "id"})
            return copy.deepcopy(row)

    def remove(self, collection: str, id_: int | str) -> None:
        """Remove an object.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._lock:
            number = self._find(collection, id_)["id"]
            del self._collections[collection][number]

    def _find(self, collection: str, id_: int | str) -> Row:
        text = str(id_)
        row = self._collections.get(collection, {}).get(int(text)) if text.isdecimal() else None
        if row is None:
            raise RefusedRequest(404, f"{collection} has nothing with the id {text}")
        return row

    # The lexicon

    def set_schema(self, entity_type: str, name: str, schema: Mapping[str, Any]) -> None:
        """Store the schema of an event, group or profile."""
        with self._lock:
            self._schemas[entity_type, name] = copy.deepcopy(dict(schema))

    def schemas(self, entity_type: str | None = None, name: str | None = None) -> list[Row]:
        """Return schemas: all, those of a type, or one."""
        with self._lock:
            return [
                {"entityType": kind, "name": each, "schemaJson": copy.deepcopy(schema)}
                for (kind, each), schema in self._schemas.items()
                if entity_type in (None, kind) and name in (None, each)
            ]

    def delete_schemas(self, entity_type: str | None = None, name: str | None = None) -> int:
        """Delete schemas: all, those of a type, or one; return how many there were."""
        with self._lock:
            chosen = [(row["entityType"], row["name"]) for row in self.schemas(entity_type, name)]
            for key in chosen:
                del self._schemas[key]
            return len(chosen)

    def definition(self, kind: str, name: str) -> Row:
        """Return what the lexicon holds about an event or property, besides its name."""
        with self._lock:
            return copy.deepcopy(self._lexicon.get((kind, name), {}))

    def define(self, kind: str, name: str, fields: Mapping[str, Any]) -> None:
        """Change what the lexicon holds about an event or property."""
        with self._lock:
            self._lexicon.setdefault((kind, name), {}).update(copy.deepcopy(dict(fields)))
