"""From the buffer to the outcome of each message: queues, retries, counts."""
