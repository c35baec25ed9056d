"""Workers that are no plain threads: event loops and processes."""
