"""Items that stay in order by key, while several workers share the keys."""
