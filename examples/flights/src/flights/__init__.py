"""The flights that left New York City in 2013: an example project of Sidestage."""
