"""Which partitions must run, and why: pure functions of definitions, records and now."""
