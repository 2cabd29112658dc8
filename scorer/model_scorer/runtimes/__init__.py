"""Runtimes: one module per framework, each behind the protocol of `protocol.py` and importing its framework only when used.

A runtime takes validated input and gives predictions; it knows nothing of HTTP, dialects, queues or processes.
`registry.py` finds the runtime of a framework's name.
"""
