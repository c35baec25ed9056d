"""Items through stages, in one process: a description, and what runs it."""
