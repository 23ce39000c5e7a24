"""From a definition to a variant: hashing, compiled flags, the decision."""
