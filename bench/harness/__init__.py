"""The benchmarks' harness: server processes, load, limits, numbers.

Takes descriptions of servers and workloads; gives samples, tables and judged goals. It starts processes on loopback ports
of its own only, stops every one that it started, and never compares figures of different runs.
"""
