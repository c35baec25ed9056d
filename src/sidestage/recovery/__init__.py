"""After a failure: what was left behind, and how it is cleared away."""
