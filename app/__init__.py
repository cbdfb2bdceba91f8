"""The service: a photo in over HTTP, its labels out."""

__version__ = "0.1.0"
