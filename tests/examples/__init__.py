"""Tests of README, examples and notebooks."""
