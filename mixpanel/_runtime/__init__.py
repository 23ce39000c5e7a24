"""What the package needs of the process and the operating system.

Nothing here knows HTTP, records or delivery, and nothing imports the rest of the package.
"""
