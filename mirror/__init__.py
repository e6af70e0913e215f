"""A pull-through caching registry mirror."""

__version__ = "0.1.0"
