"""One budget of bytes for all that a stream holds."""
