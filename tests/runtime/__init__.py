"""Tests of event loops, process end and files."""
