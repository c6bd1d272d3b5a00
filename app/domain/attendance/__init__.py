"""Who was there, for how many minutes, and what follows from it."""
