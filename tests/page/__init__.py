"""Tests of the live page and its feed."""
