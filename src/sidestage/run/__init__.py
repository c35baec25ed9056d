"""Do the plan: claim, read, call, write aside, audit, publish."""
