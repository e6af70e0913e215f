"""Bytes and facts at rest: content-addressed blobs, unfinished fills, the index."""
