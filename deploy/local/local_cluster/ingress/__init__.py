"""Ingress controller and reverse proxy of the local cluster.

Takes Ingresses, Services, EndpointSlices and TLS Secrets from any API server; gives HTTP and HTTPS
on two ports, routed to ready pods, and the Ingresses' status. It changes no object but the status
of Ingresses of its class, buffers no body beyond what a repetition needs, and speaks HTTP/1.1 only.
"""

from local_cluster.ingress.controller import IngressController
from local_cluster.ingress.routing import CONTROLLER

__all__ = ["CONTROLLER", "IngressController"]
