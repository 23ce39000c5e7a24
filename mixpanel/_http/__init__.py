"""Requests, connections and transports: the only package that knows httpx and httpcore."""
