"""Specific to Hightouch: its dialect and its access tokens."""
