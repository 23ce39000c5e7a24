"""Decide which SQL of users may run, from the tree that DuckDB itself parses it into.

Everything is refused that is not known to be harmless: kinds of statements, nodes of the tree,
table functions, and tables that are in no catalog, for DuckDB takes those for names of files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from mixpanel.data.exceptions import SQLError, UnsafeSQLError
from mixpanel.data.store.engine import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

__all__ = ["checked"]

QUESTIONS = "SELECT, WITH, FROM, VALUES, TABLE, PIVOT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN"
CHANGES = (
    "INSERT, UPDATE, DELETE, MERGE_INTO, CREATE, DROP, ALTER, COMMENT, TRUNCATE, CHECKPOINT, VACUUM"
)
QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
SOURCES = {
    "BASE_TABLE",
    "EMPTY",
    "EXPRESSION_LIST",
    "JOIN",
    "PIVOT",
    "SHOW_REF",
    "SUBQUERY",
    "TABLE_FUNCTION",
}
# Table functions that compute, or look into the catalog: they open no file and change nothing.
HARMLESS = {
    "range", "generate_series", "unnest", "repeat", "repeat_row", "summary", "json_each",
    "json_tree", "test_all_types", "icu_calendar_names", "pg_timezone_names",
    "duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_dependencies",
    "duckdb_extensions", "duckdb_functions", "duckdb_indexes", "duckdb_keywords",
    "duckdb_memory", "duckdb_optimizers", "duckdb_schemas", "duckdb_sequences",
    "duckdb_settings", "duckdb_tables", "duckdb_triggers", "duckdb_types", "duckdb_variables",
    "duckdb_views",
    "pragma_collations", "pragma_database_size", "pragma_metadata_info", "pragma_platform",
    "pragma_show", "pragma_storage_info", "pragma_table_info", "pragma_user_agent",
    "pragma_version",
}  # fmt: skip
# With external access, readers of files too, but none that takes an address in memory.
READERS = re.compile(
    r"(?!arrow_|pandas_|python_)(read_\w+|parquet_\w+|sniff_csv|glob|query|query_table|histogram"
    r"|histogram_values|\w+_scan)"
)
CHANGING = {"nextval", "setval", "write_log"}  # functions
OPTIONS = {"analyze", "analyse", "format", "verbose"}  # of EXPLAIN, in parentheses
# What DuckDB takes for a space, but its tokenizer for a letter.
SPACES = re.compile("[\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f\u2060\u3000\ufeff]")
WORD = re.compile(r'"(?:[^"]|"")*"|[^\W\d][\w$]*|.', re.DOTALL)
FILE = re.compile(r"[./\\:*?\[]")
DEEPEST = 20  # views and macros in each other
_names: list[tuple[frozenset[str], frozenset[str]]] = []


def checked(connection: DuckDBPyConnection, query: str, *, write: bool) -> Any:
    """Return the one statement of a query, if it may run.

    :raises UnsafeSQLError: when it does more than read, unless `write`; when it reaches for files
        without external access; for several statements at once.
    :raises SQLError: when there is none.
    """
    if not isinstance(query, str):
        raise SQLError(f"SQL must be a str, not {query!r}")
    query.encode()  # half a character
    row = connection.execute("SELECT current_setting('enable_external_access')").fetchone()
    return _Check(connection, write=write, external=row == (True,)).statement(query)


class _Check:
    def __init__(self, connection: DuckDBPyConnection, *, write: bool, external: bool) -> None:
        self._connection, self._write, self._external = connection, write, external
        self._seen: set[str] = set()  # tables, views and macros
        self._views: list[tuple[str, str]] | None = None

    def statement(self, query: str) -> Any:
        # Not `duckdb.extract_statements`: IMPORT DATABASE reads its files when it is parsed.
        statements = self._connection.extract_statements(query)
        if not statements:
            raise SQLError("there is no statement in this SQL")
        types = engine().StatementType
        kinds = [statement.type for statement in statements]
        pivot = types.MULTI in kinds or (len(kinds) > 1 and not statements[0].query.strip())
        if pivot and not self._write:
            raise UnsafeSQLError("PIVOT needs its values named: PIVOT t ON plan IN ('free', 'pro')")
        if len(kinds) > 1 and not pivot:
            raise UnsafeSQLError(f"only one statement can run at a time; this SQL has {len(kinds)}")
        if self._write and self._external:
            return statements[0]
        inner = query
        if kinds[0] == types.EXPLAIN:
            # EXPLAIN ANALYZE runs what it explains.
            inner = _explained(query)
            explained = self._connection.extract_statements(inner)
            kinds = [statement.type for statement in explained]
            if len(kinds) != 1:
                raise self._refused("EXPLAIN of several statements")
        if self._write:
            self._check_change(inner, kinds[0])
        elif kinds[0] != types.SELECT:
            raise self._refused(kinds[0].name)
        else:
            self._check_query(inner)
        return statements[0]

    def _refused(self, what: str) -> UnsafeSQLError:
        if not self._write:
            return UnsafeSQLError(
                f"{what} is not allowed: SQL is read-only by default ({QUESTIONS}). Pass "
                "write=True to modify data"
            )
        return UnsafeSQLError(
            f"{what} is not allowed: SQL that writes may use {CHANGES} and reaches no files, "
            "extensions or other databases. Open the database with external_access=True to allow it"
        )

    # ---- changes ------------------------------------------------------------------------------

    def _check_change(self, query: str, kind: Any) -> None:
        types = engine().StatementType
        words = [word for word, _ in _words(query)]
        allowed = {
            types.SELECT,
            types.INSERT,
            types.UPDATE,
            types.DELETE,
            types.MERGE_INTO,
            types.CREATE,
            types.DROP,
            types.ALTER,
            types.VACUUM,
            types.MULTI,
        }
        checkpoint = words[:1] == ["checkpoint"] or words[:2] == ["force", "checkpoint"]
        if kind not in allowed and not checkpoint:
            raise self._refused(kind.name)
        if words[:1] == ["pragma"]:  # DuckDB 1.4 makes queries of some
            raise self._refused("PRAGMA")
        head = words[: words.index("(")] if "(" in words else words
        if kind == types.CREATE and "secret" in head[:6]:
            raise self._refused("CREATE SECRET")
        # No tree is to be had of these: every call of a table function counts, wherever it is.
        reaching = _builtin(self._connection)[1] - HARMLESS
        for before, word, behind in zip(["", *words], words, words[1:], strict=False):
            name = _unquoted(word)
            if behind == "(" and name in reaching and before not in ("into", "table", "exists"):
                raise self._refused(f"{name}()")

    # ---- questions ----------------------------------------------------------------------------

    def _check_query(self, query: str, depth: int = 0) -> None:
        if depth > DEEPEST:
            raise self._refused(f"a view that is nested more than {DEEPEST} times")
        row = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        tree = from_json(row[0]) if row else {"error": True}
        if tree["error"]:
            message = tree.get("error_message", "it cannot be parsed")
            raise self._refused(f"this statement ({message})")
        for node in _nodes(tree):
            self._check_node(node, depth)

    def _check_node(self, node: dict[str, Any], depth: int) -> None:
        kind = node.get("type")
        if not isinstance(kind, str):
            return
        if node.get("class") == "FUNCTION":
            self._check_function(node, depth)
        elif kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise self._refused(kind.removesuffix("_NODE").removesuffix("_QUERY"))
        elif "class" not in node and "sample" in node and "alias" in node:
            if kind not in SOURCES:
                raise self._refused(kind)
            if kind == "TABLE_FUNCTION":
                self._check_table_function(node["function"], depth)
            elif kind == "BASE_TABLE" or (kind == "SHOW_REF" and node.get("show_type") == "SHOW"):
                self._check_table(node, depth)

    def _check_function(self, node: dict[str, Any], depth: int) -> None:
        name = node["function_name"].lower()
        if name in CHANGING:
            raise self._refused(f"{name}()")
        self._check_macro(name, depth)

    def _check_table_function(self, node: dict[str, Any], depth: int) -> None:
        name = node.get("function_name", "").lower()
        if name in HARMLESS or (self._external and READERS.fullmatch(name)):
            return
        if self._check_macro(name, depth):
            return
        if self._external:  # an extension's, which may do anything
            raise self._refused(f"{name}()")
        # Of others DuckDB says itself that there is none, and which may be meant.
        if name in self._builtin():
            raise self._unreachable(f"{name}() is not allowed")

    def _check_macro(self, name: str, depth: int) -> bool:
        if name in self._builtin():
            return False
        if f"macro {name}" in self._seen:
            return True
        rows = self._connection.execute(
            "SELECT macro_definition, function_type FROM duckdb_functions() WHERE NOT internal "
            "AND lower(function_name) = ? AND macro_definition IS NOT NULL",
            [name],
        ).fetchall()
        if rows:
            self._seen.add(f"macro {name}")
        for definition, kind in rows:
            inner = definition if kind == "table_macro" else f"SELECT {definition}"
            self._check_query(inner, depth + 1)
        return bool(rows)

    def _builtin(self) -> frozenset[str]:
        return _builtin(self._connection)[0]

    def _unreachable(self, what: str) -> UnsafeSQLError:
        return UnsafeSQLError(
            f"{what}: SQL reaches no files, extensions or other databases here. Open the database "
            "with external_access=True to allow it"
        )

    def _check_table(self, node: dict[str, Any], depth: int) -> None:
        name = [node.get(part) or "" for part in ("catalog_name", "schema_name", "table_name")]
        name[2] = _unquoted(name[2])
        if "".join(name).lower() in self._seen:
            return
        self._seen.add("".join(name).lower())
        shown = ".".join(filter(None, name))
        if not self._external and FILE.search(shown) and not self._is_table(name):
            raise self._unreachable(f"{shown} is no table")
        if self._views is None:
            rows = self._connection.execute(
                "SELECT lower(view_name), sql FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
            self._views = [(view, definition) for view, definition in rows]
        for view, definition in self._views:
            if view == name[2]:
                self._check_query(_view_query(definition), depth + 1)

    def _is_table(self, name: list[str]) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM (SELECT database_name, schema_name, table_name FROM duckdb_tables() "
            "UNION ALL SELECT database_name, schema_name, view_name FROM duckdb_views()) "
            "WHERE lower(table_name) = lower($name) "
            "AND ($schema = '' OR lower($schema) IN (lower(schema_name), lower(database_name))) "
            "AND ($catalog = '' OR lower($catalog) = lower(database_name)) LIMIT 1",
            {"catalog": name[0], "schema": name[1], "name": name[2]},
        ).fetchone()
        return row is not None


def _builtin(connection: DuckDBPyConnection) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of all built-in functions, and of those that make tables."""
    if not _names:  # extensions are not loaded behind our back, so they stay the same
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), "
            "function_type IN ('table', 'table_macro', 'pragma') "
            "FROM duckdb_functions() WHERE internal"
        ).fetchall()
        _names.append(
            (
                frozenset(name for name, _ in rows),
                frozenset(name for name, makes_table in rows if makes_table),
            )
        )
    return _names[0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if node.get("class") != "CONSTANT":  # there may be very many
                yield node
                left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _words(query: str) -> list[tuple[str, int]]:
    """Return the tokens, in lower case unless quoted, each with where it begins in bytes."""
    text = SPACES.sub(" ", query)
    data = text.encode()
    tokens = engine().tokenize(text)
    ends = [at for at, _ in tokens[1:]] + [len(data)]
    words = []
    for (at, kind), end in zip(tokens, ends, strict=True):
        if kind.name == "comment":
            continue
        found = WORD.match(data[at:end].decode(errors="replace"))
        word = found[0] if found else ""
        words.append((word if word.startswith('"') else word.lower(), at))
    return words


def _unquoted(word: str) -> str:
    if len(word) > 1 and word.startswith('"') and word.endswith('"'):
        word = word[1:-1].replace('""', '"')
    return word.lower()


def _explained(query: str) -> str:
    """Return the statement behind EXPLAIN, ANALYZE and their options."""
    words = _words(query)
    at = 1
    while at < len(words):
        word = words[at][0]
        following = words[at + 1][0] if at + 1 < len(words) else ""
        if word in ("analyze", "analyse"):
            at += 1
        elif word == "(" and following in OPTIONS:
            while at < len(words) and words[at][0] != ")":
                at += 1
            at += 1
        else:
            break
    data = SPACES.sub(" ", query).encode()
    return data[words[at][1] :].decode() if at < len(words) else ""


def _view_query(definition: str) -> str:
    """Return the SELECT of a CREATE VIEW."""
    depth = 0
    words = _words(definition)
    for word, at in words:
        depth += (word == "(") - (word == ")")
        if word == "as" and depth == 0:
            return SPACES.sub(" ", definition).encode()[at + 2 :].decode()
    return definition
