"""Azure ML's inference server: an entry script with `init()` and `run(data)`."""

import json

from workloads.application import load

model = None


def init():
    """Load the model, once a worker."""
    global model
    model = load()


def run(data):
    """Score one body."""
    return model.score_many([model.decode(json.loads(data))])[0]
