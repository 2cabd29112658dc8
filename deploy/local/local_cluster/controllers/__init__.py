"""Controllers and scheduler of the local cluster: from wanted state to pods, through the API only.

Takes a kubeconfig; gives ReplicaSets, pods, bindings, EndpointSlices, scales and statuses, as
kube-controller-manager and kube-scheduler do for what kubectl and operators can see. It runs
nothing and routes nothing: pods are started by the node agent, requests go through the ingress.
"""

from local_cluster.controllers.manager import ControllerManager, Timing

__all__ = ["ControllerManager", "Timing"]
