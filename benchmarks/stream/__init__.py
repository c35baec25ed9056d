"""What plumbing costs: items through five trivial stages, in Sidestage, its peers and Go, in one run."""
