"""The emulator's HTTP server: endpoints, faults, and the web page."""
