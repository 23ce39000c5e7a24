"""The server's rules: what it accepts of each kind of message, and from whom."""
