"""What holds for any sequence of requests (Hypothesis), on both engines."""
