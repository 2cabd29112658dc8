"""A small Kubernetes on one Linux machine, without Docker: for first runs, demos and tests."""
