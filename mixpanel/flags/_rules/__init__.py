"""Rules: the two engines, their operators, and limits of their work."""
