"""Signing in and letting applications in: tokens, launches, the pages that people see."""
