"""Definitions: requests, polling, and the snapshot file."""
