"""The scorer: fetches a model, proves that it works, and serves it over HTTP."""
