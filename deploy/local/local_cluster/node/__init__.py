"""The node agent: runs the pods bound to one node as local processes, and reports on them.

Takes pods, secrets, config maps and claims from an API server; gives processes, logs, node and pod
status, events and usage metrics. It never schedules, never changes a pod's spec, and imports
nothing of the API server: it also works beside a real one.
"""
