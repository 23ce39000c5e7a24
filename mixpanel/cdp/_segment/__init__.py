"""The Segment spec: messages, clients and requests, whatever the vendor."""
