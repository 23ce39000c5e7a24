"""Tests of project data."""
