"""Tests of composing and encoding records."""
