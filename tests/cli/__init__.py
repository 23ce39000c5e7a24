"""Tests of the mp command."""
