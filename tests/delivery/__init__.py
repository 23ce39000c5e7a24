"""Tests of the queue, retries and delivery accounting."""
