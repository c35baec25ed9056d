"""Real servers for tests, started on free ports with temporary folders, stopped by process number."""
