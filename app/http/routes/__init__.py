"""The HTTP routes, one concern a file."""
