"""Ray Serve: one deployment with two replicas, with or without its batching, on a Ray of this process's own."""

import logging
import os
import signal

import ray
from ray import serve
from starlette.requests import Request
from workloads.application import BATCH_SIZES, load

BATCH = os.environ.get("BENCH_BATCH") == "yes"


@serve.deployment(
    num_replicas=int(os.environ["BENCH_WORKERS"]),
    max_ongoing_requests=128,
    ray_actor_options={"num_cpus": 0.5},
)
class Scorer:
    """One replica."""

    def __init__(self) -> None:
        self.model = load()

    @serve.batch(
        max_batch_size=BATCH_SIZES[os.environ["BENCH_WORKLOAD"]], batch_wait_timeout_s=0.001
    )
    async def score_batch(self, payloads: list) -> list:
        """Payloads of several requests."""
        return self.model.score_many(payloads)

    async def __call__(self, request: Request):
        """Score one body."""
        payload = self.model.decode(await request.json())
        if BATCH:
            return await self.score_batch(payload)
        return self.model.score_many([payload])[0]


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level=logging.WARNING,
        object_store_memory=200 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Scorer.bind(), route_prefix="/score")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
