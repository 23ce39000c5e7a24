"""What commands print: formats, the terminal, progress, exit codes."""
