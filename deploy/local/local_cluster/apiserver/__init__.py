"""The local cluster's API server: Kubernetes' HTTP API on loopback, kept in one SQLite file.

Takes a state folder and gives an HTTPS endpoint and a kubeconfig for it. It stores, validates, watches and collects
objects; it runs no pods, routes no traffic and reconciles no workloads: those are other programs that talk to it as
they would to any API server. There is no RBAC: whoever holds a valid token may do everything.
"""

from local_cluster.apiserver.server import ApiServer

__all__ = ["ApiServer"]
