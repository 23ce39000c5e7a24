"""Decide which SQL may run, from the syntax tree that DuckDB's own parser returns.

Matching text would miss comments, quoting and nesting, so the tree is checked, against allow-lists:
statement types, tree nodes and table functions that are not known to be safe are refused, including
what a new DuckDB adds. Tables must be in the catalog, because DuckDB reads an unknown table name as
the name of a file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from mixpanel.data.exceptions import SQLError, UnsafeSQLError
from mixpanel.data.store.engine import load_duckdb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duckdb import DuckDBPyConnection

__all__ = ["check_statement", "mentioned", "statement_body"]

READ_STATEMENTS = "SELECT, WITH, FROM, VALUES, TABLE, PIVOT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN"
WRITE_STATEMENTS = (
    "INSERT, UPDATE, DELETE, MERGE_INTO, CREATE, DROP, ALTER, COMMENT, TRUNCATE, CHECKPOINT, VACUUM"
)
QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_REFS = {
    "BASE_TABLE",
    "EMPTY",
    "EXPRESSION_LIST",
    "JOIN",
    "PIVOT",
    "SHOW_REF",
    "SUBQUERY",
    "TABLE_FUNCTION",
}
# Table functions that compute, or read the catalog: they open no file and change nothing.
SAFE_TABLE_FUNCTIONS = {
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
# Of those, the ones that read about the tables only, not about the files, settings and machine.
TABLE_CATALOG_FUNCTIONS = {
    "range", "generate_series", "unnest", "repeat", "repeat_row", "summary", "json_each",
    "json_tree", "test_all_types", "icu_calendar_names", "pg_timezone_names", "duckdb_columns",
    "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
    "pragma_show", "pragma_table_info",
}  # fmt: skip
TABLE_CATALOG_VIEWS = {
    "duckdb_columns", "duckdb_tables", "duckdb_types", "duckdb_views", "sqlite_master",
    "sqlite_schema", "pg_tables", "pg_views",
    "character_sets", "check_constraints", "columns", "constraint_column_usage",
    "constraint_table_usage", "key_column_usage", "referential_constraints", "schemata",
    "table_constraints", "tables", "views",
}  # fmt: skip
# Scalar functions that return settings, variables and addresses.
SETTING_FUNCTIONS = {
    "current_setting", "getenv", "getvariable", "inet_client_addr", "inet_client_port",
    "inet_server_addr", "inet_server_port", "pg_conf_load_time", "which_secret",
}  # fmt: skip
# Readers of files, allowed with external access. Those that take an address in memory never are.
FILE_READERS = re.compile(
    r"(?!arrow_|pandas_|python_)(read_\w+|parquet_\w+|sniff_csv|glob|query|query_table|histogram"
    r"|histogram_values|\w+_scan)"
)
SIDE_EFFECT_FUNCTIONS = {"nextval", "setval", "write_log"}  # scalar functions with side effects
EXPLAIN_OPTIONS = {"analyze", "analyse", "format", "verbose"}  # of EXPLAIN, given in parentheses
# Characters that DuckDB's parser reads as a space, but its tokenizer as part of a word.
SPACES = re.compile("[\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f\u2060\u3000\ufeff]")
WORD = re.compile(r'"(?:[^"]|"")*"|[^\W\d][\w$]*|.', re.DOTALL)
FILE_LIKE_NAME = re.compile(r"[./\\:*?\[]")
LONG_NUMBER = re.compile(rb"\d{39,}(?![\w.])")
MAX_NESTING = 20  # views and macros that use each other
_builtin_cache: list[tuple[frozenset[str], frozenset[str]]] = []


def check_statement(
    connection: DuckDBPyConnection, query: str, *, write: bool, tables_only: bool = False
) -> Any:
    """Return the only statement of a query, parsed, if it may run.

    With `tables_only` it cannot read about the database file, settings and the machine either.

    :raises UnsafeSQLError: if it does more than read, unless `write`; if it accesses files without
        external access; if there are several statements.
    :raises SQLError: if there is no statement.
    """
    if not isinstance(query, str):
        raise SQLError(f"SQL must be a str, not {query!r}")
    query.encode()  # raises UnicodeEncodeError for an unpaired surrogate
    # All rows, because a relation cannot write while a result of its connection is unfinished.
    rows = connection.execute("SELECT current_setting('enable_external_access')").fetchall()
    check = _StatementCheck(
        connection, write=write, external=rows == [(True,)], tables_only=tables_only
    )
    return check.statement(query)


def statement_body(query: str) -> str:
    """Return the only statement of a query without the semicolon that ends it."""
    for word, at in _words(query):
        if word == ";":
            return SPACES.sub(" ", query).encode()[:at].decode()
    return query


def mentioned(query: str) -> set[str]:
    """Return the words and quoted names in a query, in lower case: all tables are among them."""
    return {_unquoted(word).lower() for word, _ in _words(query)}


class _StatementCheck:
    def __init__(
        self, connection: DuckDBPyConnection, *, write: bool, external: bool, tables_only: bool
    ) -> None:
        self._connection, self._write, self._external = connection, write, external
        self._tables_only = tables_only
        self._visited: set[str] = set()  # tables, views and macros already checked
        self._views: list[tuple[str, str]] | None = None

    def statement(self, query: str) -> Any:
        # On our connection, because IMPORT DATABASE reads its files while it is parsed: a new
        # connection would not be confined.
        statements = self._connection.extract_statements(query)
        if not statements:
            raise SQLError("the SQL contains no statement")
        types = load_duckdb().StatementType
        kinds = [statement.type for statement in statements]
        pivot = types.MULTI in kinds or (len(kinds) > 1 and not statements[0].query.strip())
        if pivot and not self._write:
            raise UnsafeSQLError("PIVOT needs a list of values: PIVOT t ON plan IN ('free', 'pro')")
        if len(kinds) > 1 and not pivot:
            raise UnsafeSQLError(
                f"only one statement can run at a time, not {len(kinds)}: run them one by one"
            )
        if self._write and self._external:
            return statements[0]
        query_to_check = query
        if kinds[0] == types.EXPLAIN:
            # EXPLAIN ANALYZE runs the statement, so check that one.
            query_to_check = _explained(query)
            explained = self._connection.extract_statements(query_to_check)
            kinds = [statement.type for statement in explained]
            if len(kinds) != 1:
                raise self._not_allowed("EXPLAIN of several statements")
        if self._write:
            self._check_write(query_to_check, kinds[0])
        elif kinds[0] != types.SELECT:
            raise self._not_allowed(kinds[0].name)
        else:
            self._check_query(query_to_check)
        return statements[0]

    def _not_allowed(self, construct: str) -> UnsafeSQLError:
        if not self._write:
            return UnsafeSQLError(
                f"{construct} is not allowed: SQL is read-only by default ({READ_STATEMENTS}). "
                "Pass write=True to modify data"
            )
        return UnsafeSQLError(
            f"{construct} is not allowed: SQL with write=True may use {WRITE_STATEMENTS}, but "
            "cannot access files, extensions or other databases. Open the database with "
            "external_access=True to allow it"
        )

    # ---- statements that write ----------------------------------------------------------------

    def _check_write(self, query: str, kind: Any) -> None:
        types = load_duckdb().StatementType
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
            raise self._not_allowed(kind.name)
        if words[:1] == ["pragma"]:  # DuckDB 1.4 rewrites some to SELECT
            raise self._not_allowed("PRAGMA")
        head = words[: words.index("(")] if "(" in words else words
        if kind == types.CREATE and "secret" in head[:6]:
            raise self._not_allowed("CREATE SECRET")
        # DuckDB returns a syntax tree for SELECT only. In other statements every call of a table
        # function is refused by its name, wherever it stands; `INSERT INTO glob (x)`, where the
        # name of a table precedes a parenthesis, is not a call.
        unsafe = _builtin(self._connection)[1] - SAFE_TABLE_FUNCTIONS
        for previous, word, following in zip(["", *words], words, words[1:], strict=False):
            name = _unquoted(word)
            if following == "(" and name in unsafe and previous not in ("into", "table", "exists"):
                raise self._not_allowed(f"{name}()")

    # ---- statements that read -----------------------------------------------------------------

    def _check_query(self, query: str, depth: int = 0) -> None:
        if depth > MAX_NESTING:
            raise self._not_allowed(f"a view that is nested more than {MAX_NESTING} times")
        # DuckDB 2 returns no tree of numbers of more than 128 bits, whose values do not matter.
        text = self._serialized(query) or self._serialized(_with_small_numbers(query))
        tree = from_json(text) if text else {"error": True}
        if tree["error"]:
            message = tree.get("error_message", "DuckDB returns no syntax tree of it")
            raise self._not_allowed(f"this statement ({message})")
        for node in _nodes(tree):
            self._check_node(node, depth)

    def _serialized(self, query: str) -> str:
        """Return the syntax tree of a query as JSON, or "" if DuckDB returns none."""
        row = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()
        return str(row[0] or "") if row else ""

    def _check_node(self, node: dict[str, Any], depth: int) -> None:
        kind = node.get("type")
        if not isinstance(kind, str):
            return
        if node.get("class") == "FUNCTION":
            self._check_function(node, depth)
        elif kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise self._not_allowed(kind.removesuffix("_NODE").removesuffix("_QUERY"))
        elif "class" not in node and "sample" in node and "alias" in node:
            if kind not in TABLE_REFS:
                raise self._not_allowed(kind)
            if kind == "TABLE_FUNCTION":
                self._check_table_function(node["function"], depth)
                return
            if self._tables_only:
                self._check_catalog_view(node)
            if kind == "BASE_TABLE" or (kind == "SHOW_REF" and node.get("show_type") == "SHOW"):
                self._check_table(node, depth)

    def _check_function(self, node: dict[str, Any], depth: int) -> None:
        name = node["function_name"].lower()
        if name in SIDE_EFFECT_FUNCTIONS:
            raise self._not_allowed(f"{name}()")
        if self._tables_only and name in SETTING_FUNCTIONS:
            raise self._not_about_tables(f"{name}()")
        self._check_macro(name, depth)

    def _check_table_function(self, node: dict[str, Any], depth: int) -> None:
        name = node.get("function_name", "").lower()
        if self._tables_only and name in SAFE_TABLE_FUNCTIONS - TABLE_CATALOG_FUNCTIONS:
            raise self._not_about_tables(f"{name}()")
        if name in SAFE_TABLE_FUNCTIONS or (self._external and FILE_READERS.fullmatch(name)):
            return
        if self._check_macro(name, depth):
            return
        if self._external:  # it is from an extension, and may do anything
            raise self._not_allowed(f"{name}()")
        # For unknown names DuckDB's own error is better: it suggests similar ones.
        if name in self._builtin():
            raise self._no_external_access(f"{name}() is not allowed")

    def _check_catalog_view(self, node: dict[str, Any]) -> None:
        """Refuse the built-in views that are not about tables, such as `pg_settings`."""
        name = _unquoted(node.get("table_name") or "")
        if name in TABLE_CATALOG_VIEWS or not name:
            return
        row = self._connection.execute(
            "SELECT 1 FROM duckdb_views() WHERE internal AND lower(view_name) = ? LIMIT 1", [name]
        ).fetchone()
        if row is not None:
            raise self._not_about_tables(name)

    def _not_about_tables(self, construct: str) -> UnsafeSQLError:
        return UnsafeSQLError(
            f"{construct} is not allowed: it reads about the database file, settings or the "
            "machine, and this SQL reads tables only"
        )

    def _check_macro(self, name: str, depth: int) -> bool:
        if name in self._builtin():
            return False
        if f"macro {name}" in self._visited:
            return True
        rows = self._connection.execute(
            "SELECT macro_definition, function_type FROM duckdb_functions() WHERE NOT internal "
            "AND lower(function_name) = ? AND macro_definition IS NOT NULL",
            [name],
        ).fetchall()
        if rows:
            self._visited.add(f"macro {name}")
        for definition, kind in rows:
            query_to_check = definition if kind == "table_macro" else f"SELECT {definition}"
            self._check_query(query_to_check, depth + 1)
        return bool(rows)

    def _builtin(self) -> frozenset[str]:
        return _builtin(self._connection)[0]

    def _no_external_access(self, construct: str) -> UnsafeSQLError:
        return UnsafeSQLError(
            f"{construct}: SQL cannot access files, extensions or other databases. Open the "
            "database with external_access=True to allow it"
        )

    def _check_table(self, node: dict[str, Any], depth: int) -> None:
        name = [node.get(part) or "" for part in ("catalog_name", "schema_name", "table_name")]
        name[2] = _unquoted(name[2])
        if "".join(name).lower() in self._visited:
            return
        self._visited.add("".join(name).lower())
        full_name = ".".join(filter(None, name))
        if not self._external and FILE_LIKE_NAME.search(full_name) and not self._is_table(name):
            raise self._no_external_access(f"{full_name} is not a table")
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
    """Return the names of all built-in functions, and of the table functions among them."""
    if not _builtin_cache:  # constant: extensions are not loaded automatically
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), "
            "function_type IN ('table', 'table_macro', 'pragma') "
            "FROM duckdb_functions() WHERE internal"
        ).fetchall()
        _builtin_cache.append(
            (
                frozenset(name for name, _ in rows),
                frozenset(name for name, makes_table in rows if makes_table),
            )
        )
    return _builtin_cache[0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if node.get("class") != "CONSTANT":  # an IN list may have very many
                yield node
                pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _words(query: str) -> list[tuple[str, int]]:
    """Return the tokens, in lower case unless quoted, each with its offset in bytes."""
    text = SPACES.sub(" ", query)
    data = text.encode()
    tokens = load_duckdb().tokenize(text)
    ends = [at for at, _ in tokens[1:]] + [len(data)]
    words = []
    for (at, kind), end in zip(tokens, ends, strict=True):
        if kind.name == "comment":
            continue
        found = WORD.match(data[at:end].decode(errors="replace"))
        word = found[0] if found else ""
        words.append((word if word.startswith('"') else word.lower(), at))
    return words


def _with_small_numbers(query: str) -> str:
    """Return a query of the same length whose whole numbers of more than 128 bits are 1."""
    text = SPACES.sub(" ", query)
    data = bytearray(text.encode())
    for at, kind in load_duckdb().tokenize(text):
        found = LONG_NUMBER.match(data, at) if kind.name == "numeric_const" else None
        if found:
            data[at : found.end()] = b"1".rjust(found.end() - at, b"0")
    return data.decode()


def _unquoted(word: str) -> str:
    if len(word) > 1 and word.startswith('"') and word.endswith('"'):
        word = word[1:-1].replace('""', '"')
    return word.lower()


def _explained(query: str) -> str:
    """Return the statement after EXPLAIN, ANALYZE and their options."""
    words = _words(query)
    at = 1
    while at < len(words):
        word = words[at][0]
        following = words[at + 1][0] if at + 1 < len(words) else ""
        if word in ("analyze", "analyse"):
            at += 1
        elif word == "(" and following in EXPLAIN_OPTIONS:
            while at < len(words) and words[at][0] != ")":
                at += 1
            at += 1
        else:
            break
    data = SPACES.sub(" ", query).encode()
    return data[words[at][1] :].decode() if at < len(words) else ""


def _view_query(definition: str) -> str:
    """Return the query of a CREATE VIEW statement."""
    depth = 0
    words = _words(definition)
    for word, at in words:
        depth += (word == "(") - (word == ")")
        if word == "as" and depth == 0:
            return SPACES.sub(" ", definition).encode()[at + 2 :].decode()
    return definition
