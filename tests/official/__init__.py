"""The official client and this one, side by side: the same calls, against the same kind of sink."""
