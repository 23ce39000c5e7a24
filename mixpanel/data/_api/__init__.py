"""Mixpanel's reading APIs: requests, rate limits, downloads."""
