"""FastAPI on uvicorn with uvloop and httptools: an asynchronous route that calls the model inline."""

from typing import Any

from fastapi import FastAPI
from workloads.application import load

app = FastAPI()
model = load()


@app.post("/score")
async def score(document: dict[str, Any]) -> Any:
    """Score one body."""
    return model.score_many([model.decode(document)])[0]
