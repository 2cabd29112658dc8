"""LitServe: a FastAPI front with two inference workers, with or without batching."""

import os

import litserve as ls
from workloads.application import BATCH_SIZES, load

BATCH = os.environ.get("BENCH_BATCH") == "yes"


class ScoringAPI(ls.LitAPI):
    """The model behind LitServe's hooks."""

    def setup(self, device):
        """Load, once a worker."""
        self.model = load()

    def decode_request(self, request):
        """The payload of a parsed body."""
        return self.model.decode(request)

    def batch(self, inputs):
        """Payloads stay a list: the application merges them."""
        return inputs

    def predict(self, payload):
        """One payload, or a list of them."""
        return self.model.score_many(payload) if BATCH else self.model.score_many([payload])[0]

    def unbatch(self, output):
        """One answer each."""
        return output

    def encode_response(self, output):
        """As it is."""
        return {"output": output}


if __name__ == "__main__":
    batching = (
        {"max_batch_size": BATCH_SIZES[os.environ["BENCH_WORKLOAD"]], "batch_timeout": 0.001}
        if BATCH
        else {}
    )
    server = ls.LitServer(
        ScoringAPI(api_path="/score", **batching),
        accelerator="cpu",
        workers_per_device=int(os.environ["BENCH_WORKERS"]),
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
