"""A pull-through caching registry mirror."""


def __getattr__(name: str) -> str:
    """Find out the version only where somebody asks: reading the metadata takes a twentieth of a start."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # see above

    try:
        return version("registry-mirror")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
