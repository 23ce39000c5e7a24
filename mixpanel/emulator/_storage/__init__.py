"""What the emulator keeps: tables, requests, flags, exports."""
