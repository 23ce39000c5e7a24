"""Event loops, threads, process exit, fork and private files.

Nothing here knows HTTP, records or delivery, and nothing imports the rest of the package.
"""
