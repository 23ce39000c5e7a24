"""What the process itself needs: logging that cannot raise, imports that a fork can wait for.

Nothing here knows HTTP, records or delivery.
"""
