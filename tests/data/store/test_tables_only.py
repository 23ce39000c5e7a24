"""The SQL of agents reads tables: not the path of the database, settings or the machine."""

from pathlib import Path

import pytest

from mixpanel.data.exceptions import MixpanelDataError, UnsafeSQLError
from mixpanel.data.store import Database

VIEW_FORMS = ("FROM {}", "SUMMARIZE {}", "SELECT * FROM (TABLE {})", "EXPLAIN ANALYZE FROM {}")
ARGUMENTS = ("", "'events'", "'temp_directory'", "'HOME'")
WRITTEN = (
    "PRAGMA database_list",
    "CALL duckdb_databases()",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
    "SUMMARIZE duckdb_databases",
    "SUMMARIZE FROM duckdb_databases()",
    "EXPLAIN SELECT current_setting('temp_directory')",
    "EXPLAIN ANALYZE FROM duckdb_databases()",
    "FROM duckdb_settings",
    'FROM "DUCKDB_Databases"',
    "FROM system.main.duckdb_databases",
    "SELECT (SELECT max(path) FROM duckdb_databases())",
    "WITH x AS (FROM duckdb_databases()) FROM x",
    "SELECT 1 WHERE current_setting('temp_directory') > ''",
    "SELECT system.main.current_setting('temp_directory')",
    "FROM range(1) SELECT list_transform([1], x -> current_setting('temp_directory'))",
    "SELECT * FROM query('FROM duckdb_databases()')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM duckdb_databases()'))",
    "FROM of_the_user",
    "SELECT setting_of_the_user()",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Keep a database with a table, and a view and a macro of the user's."""
    with Database.open(tmp_path_factory.mktemp("folder-of-a-user") / "shop.db") as opened:
        opened.sql_rows("CREATE TABLE events AS SELECT 1 AS n", write=True)
        opened.sql_rows("CREATE VIEW of_the_user AS FROM duckdb_databases()", write=True)
        opened.sql_rows(
            "CREATE MACRO setting_of_the_user() AS current_setting('temp_directory')", write=True
        )
        yield opened


def read(database, query):
    """Return the text of the result, or of the error."""
    try:
        found = database.sql_page(query, offset=0, limit=1000, width=4000)
    except MixpanelDataError as error:
        return False, str(error)
    return True, f"{found.columns} {found.rows}"


def queries_of_all_built_in_names(database):
    """Return a statement for each built-in function and view of this DuckDB."""
    functions = database.sql_rows(
        "SELECT DISTINCT lower(function_name), bool_or(function_type IN ('table', 'table_macro', "
        "'pragma')) FROM duckdb_functions() WHERE internal AND "
        "regexp_full_match(function_name, '[A-Za-z_0-9]+') GROUP BY 1 ORDER BY 1"
    ).rows
    views = database.sql_rows(
        "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE internal"
    ).rows
    found = [form.format(f"system.{name}") for (name,) in views for form in VIEW_FORMS]
    for name, makes_table in functions:
        form = "FROM {}({})" if makes_table else "SELECT {}({})"
        found += [form.format(name, given) for given in ARGUMENTS]
    return found


@pytest.mark.slow
@pytest.mark.heavy
def test_no_built_in_name_shows_the_path(database):
    """Whatever this version of DuckDB has; the tables are read."""
    folder = database.path.parent.name
    assert folder in str(database.sql_rows("FROM duckdb_databases()").rows)  # the user's own SQL
    shown, answered = [], 0
    for query in queries_of_all_built_in_names(database):
        is_result, text = read(database, query)
        answered += is_result
        if folder in text or str(Path.home()) in text or "spill" in text:
            shown.append(query)
    assert shown == []
    assert answered > 100


@pytest.mark.slow
@pytest.mark.parametrize("query", WRITTEN)
def test_no_way_of_writing_it_shows_the_path(database, query):
    """In a subquery, a view or macro, a plan, or a statement of another kind."""
    _, text = read(database, query)
    assert database.path.parent.name not in text
    assert "spill" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "FROM duckdb_databases()", "FROM duckdb_settings()", "FROM duckdb_extensions()",
        "FROM duckdb_secrets()", "FROM duckdb_memory()", "FROM duckdb_logs", "FROM pg_settings",
        "FROM pragma_database_list", "SELECT current_setting('threads')", "FROM glob('/*')",
        "SELECT getvariable('x')", "FROM of_the_user", "SELECT setting_of_the_user()",
        "EXPLAIN SELECT current_setting('threads')",
    ],
)  # fmt: skip
def test_what_is_about_the_machine_is_refused(database, query):
    """With the name of the function or view."""
    with pytest.raises(UnsafeSQLError, match="not allowed"):
        database.sql_page(query, offset=0, limit=10, width=100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "FROM events", "DESCRIBE events", "SUMMARIZE events", "SHOW TABLES", "SHOW ALL TABLES",
        "FROM information_schema.columns", "FROM duckdb_tables()", "FROM duckdb_columns",
        "EXPLAIN FROM events", "EXPLAIN ANALYZE FROM events", "FROM range(3)",
    ],
)  # fmt: skip
def test_tables_and_their_columns_are_read(database, query):
    """In each of the usual ways."""
    assert database.sql_page(query, offset=0, limit=10, width=100).rows
