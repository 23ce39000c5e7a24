"""Tests of the public clients, consumers and settings."""
