"""What a stream tells of itself: counts, metrics, traces, advice, costs."""
