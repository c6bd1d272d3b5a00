"""The vocabulary of a program as data: see `app.domain.shipped`."""
