"""What tests use: a clock turned by hand, a store in memory, and histories full of faults."""
