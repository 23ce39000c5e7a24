"""Break the wire in every way we know, and keep an account of each message.

`server` misbehaves, `kinds` says how, `oracle` compares what arrived with what the client reports,
`matrix` combines kinds, endpoints, runtimes and clients. `python -m tests.faults` runs all of it.
"""
