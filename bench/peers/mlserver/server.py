"""MLServer: a custom runtime with two inference workers, with or without adaptive batching."""

import json
import os

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from workloads.application import load

TEXTS = os.environ["BENCH_WORKLOAD"] == "faq"


class BenchModel(MLModel):
    """The application behind the Open Inference Protocol."""

    async def load(self):
        """Load, once a worker."""
        self.model = load()
        return True

    async def predict(self, payload):
        """Score an infer request, of one client or of a batch."""
        given = payload.inputs[0]
        if TEXTS:
            texts = StringCodec.decode_input(given)
            answers = [json.dumps(answer) for answer in self.model.score_many(texts)]
            output = StringCodec.encode_output("answers", answers)
        else:
            rows = NumpyCodec.decode_input(given)
            output = NumpyCodec.encode_output("predict", np.array(self.model.score_many([rows])[0]))
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
