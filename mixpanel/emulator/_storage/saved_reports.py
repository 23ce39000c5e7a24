"""What a project has saved: reports, cohorts, lexicon entries, annotations and other objects."""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mixpanel.emulator._rules.decode import RefusedRequest
from mixpanel.emulator._storage.warehouse import Warehouse

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
    """The saved objects of one project, by collection and id; may be used from any thread.

    They are kept in the file of the warehouse too, if it has one.
    """

    def __init__(self, warehouse: Warehouse | None = None) -> None:
        self._lock = threading.RLock()
        self._warehouse = warehouse if warehouse is not None and warehouse.is_file else None
        self._is_loaded = self._warehouse is None
        self._reset()
        self._projects = {DEFAULT_PROJECT: None}
        self.uploads: dict[str, bytes] = {}  # files by their place in the storage
        self.restrictions = Restrictions()

    def _reset(self) -> None:
        self._collections: dict[str, dict[int, Row]] = {}
        self._schemas: dict[tuple[str, str], Row] = {}
        self._lexicon: dict[tuple[str, str], Row] = {}
        self._changes: dict[tuple[str, str], list[Row]] = {}
        self._next_id = FIRST_ID

    def clear(self) -> None:
        """Remove all objects, and lift all restrictions."""
        with self._locked():
            self._reset()
            self.uploads.clear()
            self.restrictions = Restrictions()
            if self._warehouse is not None:
                self._warehouse.clear_objects()

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
        with self._locked():
            number = id_
            if number is None:
                number, self._next_id = self._next_id, self._next_id + 1
            self._next_id = max(self._next_id, number + 1)
            row = {"id": number, **copy.deepcopy(dict(fields))} | {"id": number}
            self._collections.setdefault(collection, {})[number] = row
            self._keep("row", collection, str(number), row)
            return copy.deepcopy(row)

    def rows(self, collection: str) -> list[Row]:
        """Return all objects of a collection, in the order of their creation."""
        with self._locked():
            return copy.deepcopy(list(self._collections.get(collection, {}).values()))

    def has(self, collection: str, id_: int | str) -> bool:
        """Return True if there is an object of this id."""
        with self._locked():
            text = str(id_)
            return text.isdecimal() and int(text) in self._collections.get(collection, {})

    def get(self, collection: str, id_: int | str) -> Row:
        """Return one object.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._locked():
            return copy.deepcopy(self._find(collection, id_))

    def update(self, collection: str, id_: int | str, fields: Mapping[str, Any]) -> Row:
        """Change fields of an object, and return it.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._locked():
            row = self._find(collection, id_)
            row |= copy.deepcopy({key: value for key, value in fields.items() if key != "id"})
            self._keep("row", collection, str(row["id"]), row)
            return copy.deepcopy(row)

    def remove(self, collection: str, id_: int | str) -> None:
        """Remove an object.

        :raises RefusedRequest: 404: there is none of this id.
        """
        with self._locked():
            number = self._find(collection, id_)["id"]
            del self._collections[collection][number]
            self._keep("row", collection, str(number), None)

    def _find(self, collection: str, id_: int | str) -> Row:
        text = str(id_)
        row = self._collections.get(collection, {}).get(int(text)) if text.isdecimal() else None
        if row is None:
            raise RefusedRequest(404, f"{collection} has nothing with the id {text}")
        return row

    # What has changed

    def log_change(self, kind: str, key: int | str, time: str, fields: list[str]) -> None:
        """Remember that fields of an object were changed."""
        with self._locked():
            self._changes.setdefault((kind, str(key)), []).append({"time": time, "fields": fields})

    def changes(self, kind: str, key: int | str) -> list[Row]:
        """Return the changes of an object since the start, the first one first."""
        with self._locked():
            return copy.deepcopy(self._changes.get((kind, str(key)), []))

    # The lexicon

    def set_schema(self, entity_type: str, name: str, schema: Mapping[str, Any]) -> None:
        """Store the schema of an event, group or profile."""
        with self._locked():
            self._schemas[entity_type, name] = copy.deepcopy(dict(schema))
            self._keep("schema", entity_type, name, dict(schema))

    def schemas(self, entity_type: str | None = None, name: str | None = None) -> list[Row]:
        """Return schemas: all, those of a type, or one."""
        with self._locked():
            return [
                {"entityType": kind, "name": each, "schemaJson": copy.deepcopy(schema)}
                for (kind, each), schema in self._schemas.items()
                if entity_type in (None, kind) and name in (None, each)
            ]

    def delete_schemas(self, entity_type: str | None = None, name: str | None = None) -> int:
        """Delete schemas: all, those of a type, or one; return how many there were."""
        with self._locked():
            chosen = [(row["entityType"], row["name"]) for row in self.schemas(entity_type, name)]
            for key in chosen:
                del self._schemas[key]
                self._keep("schema", *key, None)
            return len(chosen)

    def definition(self, kind: str, name: str) -> Row:
        """Return what the lexicon holds about an event or property, besides its name."""
        with self._locked():
            return copy.deepcopy(self._lexicon.get((kind, name), {}))

    def definitions(self, kind: str) -> dict[str, Row]:
        """Return what the lexicon holds about all events or properties, by name."""
        with self._locked():
            found = {name: row for (each, name), row in self._lexicon.items() if each == kind}
            return copy.deepcopy(found)

    def define(self, kind: str, name: str, fields: Mapping[str, Any]) -> None:
        """Change what the lexicon holds about an event or property."""
        with self._locked():
            row = self._lexicon.setdefault((kind, name), {})
            row.update(copy.deepcopy(dict(fields)))
            self._keep("definition", kind, name, row)

    def undefine(self, kind: str, name: str) -> None:
        """Forget what the lexicon holds about an event or property."""
        with self._locked():
            if self._lexicon.pop((kind, name), None) is not None:
                self._keep("definition", kind, name, None)

    # The file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock; the first time, load what the file has."""
        with self._lock:
            if not self._is_loaded and self._warehouse is not None:
                self._is_loaded = True
                for what, kind, name, content in self._warehouse.objects():
                    self._restore(what, kind, name, content)
            yield

    def _restore(self, what: str, kind: str, name: str, content: Row) -> None:
        if what == "schema":
            self._schemas[kind, name] = content
        elif what == "definition":
            self._lexicon[kind, name] = content
        else:
            number = int(name)
            self._collections.setdefault(kind, {})[number] = content
            self._next_id = max(self._next_id, number + 1)

    def _keep(self, what: str, kind: str, name: str, content: Row | None) -> None:
        if self._warehouse is not None:
            self._warehouse.keep_object(what, kind, name, content)
