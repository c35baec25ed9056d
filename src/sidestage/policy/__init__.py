"""How long we try, and how a failure is classified."""
