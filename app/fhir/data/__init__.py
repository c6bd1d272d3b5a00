"""The official R4 definitions, compiled, and the step that compiles them."""
