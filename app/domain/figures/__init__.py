"""What is computed from the record when it is asked: weekly hours and the census."""
