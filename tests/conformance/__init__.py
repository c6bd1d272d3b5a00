"""The official examples, put through the server: accepted and returned exactly."""
