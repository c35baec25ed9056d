"""What exists: partitions, datasets, versions, digests; contracts of checks and of places that hold data."""
