"""Fetches of events and profiles: plan, parts and progress."""
