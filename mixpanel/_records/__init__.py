"""A call becomes a record: composing, checking and encoding, without any I/O."""
