"""Tests of what agents use: tools, server, overview and documentation."""
