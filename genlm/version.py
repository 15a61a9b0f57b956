"""The version of genlm."""

__version__ = "0.1.0"
