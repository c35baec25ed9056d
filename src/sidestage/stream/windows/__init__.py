"""Windows of event time: what is declared, what is open, what is given out."""
