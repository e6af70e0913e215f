"""The vocabulary, pure and synchronous: names, digests, media types, manifests, ranges, platforms."""
