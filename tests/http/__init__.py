"""Tests of transports and responses."""
