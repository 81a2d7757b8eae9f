"""The version of the package, kept where the build can read it without importing anything."""

__version__ = "0.1.0.dev0"
