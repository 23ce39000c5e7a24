"""Mixpanel's reports as DuckDB SQL: pure builders of statements, and readers of their rows.

A report takes an `EventSource` (where the events are), a `Period` (the days, in the project's
timezone) and its own arguments, and gives a `Query`: run its statement on DuckDB, and it reads the
rows into a result. `Workspace.local` runs them over fetched tables.
"""
