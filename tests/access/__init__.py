"""The gate: what a policy hides is seen by no way of reading, and written by no way of writing."""
