"""Evaluation: hashing, compiled flags, the decision for one user."""
