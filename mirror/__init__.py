"""A pull-through caching registry mirror."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("registry-mirror")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0"
