"""From boot to end: phases, signals, going on after a loss, taking items back."""
