"""Where version 0.1.0.dev0 kept a class that its files name: they are refused here, by name."""

from sklearn_hfl._version import __version__


def __getattr__(name: str) -> object:
    if name != "Standardizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(
        "This file was written by sklearn_hfl 0.1.0.dev0, whose format sklearn_hfl "
        f"{__version__} does not read. Load it with that version, or fit again."
    )
