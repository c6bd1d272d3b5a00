"""Search: rows of data (*.yaml) with one runner, and what rows cannot say."""
