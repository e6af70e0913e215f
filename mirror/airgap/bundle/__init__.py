"""Bundles: what carries images across an air gap, and how it is written, read and trusted."""
