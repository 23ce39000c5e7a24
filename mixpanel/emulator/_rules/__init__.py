"""The documented rules of the server: which messages and credentials it accepts."""
