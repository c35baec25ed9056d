"""One script per step from a schema to the next."""
