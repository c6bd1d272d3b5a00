"""How fast the real server is: `make bench`."""
