"""The package's version, read by the build and by ``sklearn_hfl.__version__``."""

__version__ = "0.1.0"
