"""Definitions: how they are fetched, polled and kept in a file."""
