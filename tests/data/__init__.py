"""Tests of workspace, API and fetch."""
