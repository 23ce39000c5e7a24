"""Integrations with frameworks: each promise against the real framework."""
