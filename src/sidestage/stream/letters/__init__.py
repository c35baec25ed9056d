"""Dead letters: how they leave a stream, where they are kept, how they come back."""
