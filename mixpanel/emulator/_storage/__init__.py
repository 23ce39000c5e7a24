"""The emulator's data: events and profiles in DuckDB, requests, flags, exports."""
