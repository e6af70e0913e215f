"""Filling the cache from lists, before anybody pulls."""
