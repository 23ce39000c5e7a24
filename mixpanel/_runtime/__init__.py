"""What the package needs of the operating system; it imports nothing else of the package."""
