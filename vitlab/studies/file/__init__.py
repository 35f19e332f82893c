"""What a study's YAML means: its variants, and their runs and directories. Trains nothing, reads no result."""
