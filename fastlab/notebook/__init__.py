"""What a notebook calls by name while it runs: its exercises and their checks."""
