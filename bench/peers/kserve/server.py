"""KServe's Python server with two workers: V1 and V2 of the same model."""

import functools
import os

import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.protocol.rest.multiprocess.server import RESTServerProcess
from workloads.application import load

# KServe listens on all interfaces and has no setting for it; a benchmark stays on loopback.
_configure = uvicorn.Config.__init__


@functools.wraps(_configure)
def _configure_loopback(self, app, **settings):
    _configure(self, app, **{**settings, "host": "127.0.0.1"})


uvicorn.Config.__init__ = _configure_loopback
# It kills workers that do not answer within five seconds, also while they still import their libraries.
RESTServerProcess.is_alive.__defaults__ = (60.0,)


class BenchModel(Model):
    """The application behind KServe's Model."""

    def __init__(self, name):
        super().__init__(name)
        self.model = None
        self.load()

    def load(self):
        """Load the model."""
        self.model = load()
        self.ready = True
        return True

    def __getstate__(self):
        """Workers are spawned and get the model pickled; each loads its own instead."""
        return {**self.__dict__, "model": None}

    def __setstate__(self, state):
        """See `__getstate__`."""
        self.__dict__.update(state)
        self.load()

    async def predict(self, payload, headers=None, response_headers=None):
        """V1's dictionary, or V2's InferRequest."""
        if isinstance(payload, InferRequest):
            rows = payload.inputs[0].as_numpy()
            result = np.array(self.model.score_many([rows])[0])
            output = InferOutput("predict", list(result.shape), "INT64")
            output.set_data_from_numpy(result, binary_data=payload.use_binary_outputs)
            return InferResponse(payload.id or "1", self.name, [output])
        instances = payload["instances"]
        if os.environ["BENCH_WORKLOAD"] == "small":
            return {"predictions": self.model.score_many([np.asarray(instances)])[0]}
        if os.environ["BENCH_WORKLOAD"] == "resnet":
            instances = [{"input": instance} for instance in instances]
        decoded = [self.model.decode(instance) for instance in instances]
        return {"predictions": self.model.score_many(decoded)}


if __name__ == "__main__":
    ModelServer(
        http_port=int(os.environ["BENCH_PORT"]),
        workers=int(os.environ["BENCH_WORKERS"]),
        enable_grpc=False,
    ).start([BenchModel("model")])
