"""Figures of results: what is drawn, as text for a terminal or with matplotlib."""
