"""The scorer: fetches a model, proves that it works, and serves it over HTTP."""

__version__ = "0.1.0"
