"""What happened, durably: the catalog of versions and pointers, and the record of runs."""
