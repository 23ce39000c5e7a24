"""Rules: two engines, their operators, generated code, and limits of their work."""
