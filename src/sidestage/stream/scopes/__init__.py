"""Parts of a running stream that can be cancelled by themselves: a worker, or a branch."""
