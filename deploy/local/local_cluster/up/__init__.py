"""The whole local cluster with one command, and as a context manager for tests.

Takes a state folder and ports; starts API server, controllers, node agent and ingress as child
processes, restarts what dies, and leaves no process behind. It speaks to them only through their
command lines and the API.
"""

from local_cluster.up.kubectl import KubectlError, find_kubectl
from local_cluster.up.library import LocalCluster
from local_cluster.up.state import ClusterInfo, UpError, read_cluster
from local_cluster.up.supervisor import UpSettings, run_cluster

__all__ = [
    "ClusterInfo",
    "KubectlError",
    "LocalCluster",
    "UpError",
    "UpSettings",
    "find_kubectl",
    "read_cluster",
    "run_cluster",
]
