"""Break connections in every known way, and check the outcome of each message.

`server` misbehaves, `kinds` says how, `oracle` compares what arrived with what the client reports,
`matrix` combines kinds, endpoints, runtimes and clients. `python -m tests.faults` runs all of it.
"""
