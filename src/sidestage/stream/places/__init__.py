"""Sources and sinks that are values of Python, and ways into and out of a stream."""
