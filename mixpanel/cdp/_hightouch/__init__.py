"""What sets Hightouch apart: its dialect and its access tokens."""
