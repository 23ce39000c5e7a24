"""One call to several destinations: routing, translation and counts."""
