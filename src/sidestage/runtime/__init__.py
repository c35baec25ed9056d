"""Where code runs: warm worker processes that speak in messages."""
