"""Specific to Customer.io: its dialect, its own methods, and advice on event names."""
