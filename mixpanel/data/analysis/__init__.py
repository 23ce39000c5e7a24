"""Mixpanel's reports as DuckDB SQL: functions that build statements, and read their rows.

A report takes an `EventSource` (the table of events), a `Period` (days in the project's timezone)
and its own arguments, and returns a `Query`: its statement is for DuckDB, and it turns the rows
into a result. `Workspace.local` runs reports on fetched tables.
"""
