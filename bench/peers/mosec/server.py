"""mosec: a Rust front with two Python workers, with or without its dynamic batching."""

import os

from mosec import Server, Worker
from workloads.application import BATCH_SIZES, load

BATCH = os.environ.get("BENCH_BATCH") == "yes"
WORKLOAD = os.environ["BENCH_WORKLOAD"]


class Scorer(Worker):
    """One model process."""

    def __init__(self):
        self.model = load()

    def forward(self, data):
        """Score one parsed body, or a list of them when batching."""
        if not BATCH:
            return self.model.score_many([self.model.decode(data)])[0]
        return self.model.score_many([self.model.decode(each) for each in data])


if __name__ == "__main__":
    server = Server()
    batching = {"max_batch_size": BATCH_SIZES[WORKLOAD], "max_wait_time": 1} if BATCH else {}
    server.append_worker(
        Scorer, num=int(os.environ["BENCH_WORKERS"]), route="/score", timeout=60, **batching
    )
    server.run()
