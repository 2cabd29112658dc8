"""Dialects: one codec for each family of clients, from the bytes of a request to a `Call`, from an `Output` to bytes.

A dialect never waits, never runs the model, and knows nothing of sockets. Its errors have its own clients' form.
"""
