"""The commands of `mp cdp`, and what they share."""
