"""Exposures: which are new, and how they are reported."""
