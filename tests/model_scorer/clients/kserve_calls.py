"""What KServe's InferenceRESTClient says of a scorer, as JSON; run by test_kserve_client.py in the client's environment.

Called with the scorer's URL, the model's name and an API key. Each call is one line: `{"call": name, "answer": …}`, or
`{"call": name, "error": text}` when the client raised.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ROWS = np.array([[6.8, 2.8, 4.8, 1.4], [5.1, 3.5, 1.4, 0.2]])
NARROW = ROWS[:, :3].copy()


def make_request(
    model: str, rows: np.ndarray, datatype: str, *, binary: bool, outputs: list[str] | None = None
) -> InferRequest:
    """A V2 request as the client's own classes make it."""
    given = InferInput("X", list(rows.shape), datatype)
    given.set_data_from_numpy(rows, binary_data=binary)
    wanted = [RequestedOutput(name, {"binary_data": binary}) for name in outputs or []]
    return InferRequest(
        model_name=model, infer_inputs=[given], request_id="42", request_outputs=wanted or None
    )


def read_answer(answer: Any) -> Any:
    """An InferResponse as the arrays that it holds; anything else as it is."""
    if not hasattr(answer, "outputs"):
        return answer
    return {
        "id": answer.id,
        "model": answer.model_name,
        "outputs": {item.name: item.as_numpy().tolist() for item in answer.outputs},
    }


async def main(url: str, model: str, key: str) -> None:
    """Every method of the client, with V1 and with V2."""

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    async def say(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            said = {"call": name, "answer": read_answer(await call())}
        except Exception as err:
            said = {"call": name, "error": f"{type(err).__name__}: {err}"}
        print(json.dumps(said), flush=True)

    async with InferenceRESTClient(RESTConfig(protocol="v1")) as v1:
        rows = {"instances": ROWS.tolist()}
        await say("v1 live", lambda: v1.is_server_live(url, headers=headers()))
        await say("v1 model ready", lambda: v1.is_model_ready(url, model, headers=headers()))
        await say("v1 other ready", lambda: v1.is_model_ready(url, "other", headers=headers()))
        await say("v1", lambda: v1.infer(url, rows, model_name=model, headers=headers()))
        narrow = {"instances": NARROW.tolist()}
        await say("v1 narrow", lambda: v1.infer(url, narrow, model_name=model, headers=headers()))
        await say("v1 other", lambda: v1.infer(url, rows, model_name="other", headers=headers()))
        await say("v1 no key", lambda: v1.infer(url, rows, model_name=model))
        await say("v1 explain", lambda: v1.explain(url, model, rows, headers=headers()))
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as v2:
        await say("v2 live", lambda: v2.is_server_live(url, headers=headers()))
        await say("v2 ready", lambda: v2.is_server_ready(url, headers=headers()))
        await say("v2 model ready", lambda: v2.is_model_ready(url, model, headers=headers()))
        await say("v2 other ready", lambda: v2.is_model_ready(url, "other", headers=headers()))
        for binary in (False, True):
            form = "binary" if binary else "json"
            for datatype, dtype in (("FP32", np.float32), ("FP64", np.float64)):
                asked = make_request(model, ROWS.astype(dtype), datatype, binary=binary)
                await say(
                    f"v2 {form} {datatype}",
                    lambda asked=asked: v2.infer(url, asked, model_name=model, headers=headers()),
                )
            both = make_request(
                model, ROWS, "FP64", binary=binary, outputs=["predict", "predict_proba"]
            )
            await say(
                f"v2 {form} both",
                lambda both=both: v2.infer(url, both, model_name=model, headers=headers()),
            )
        half = make_request(model, ROWS.astype(np.float16), "FP16", binary=True)
        await say("v2 half", lambda: v2.infer(url, half, model_name=model, headers=headers()))
        narrow_tensor = make_request(model, NARROW, "FP64", binary=False)
        await say(
            "v2 narrow",
            lambda: v2.infer(url, narrow_tensor, model_name=model, headers=headers()),
        )
        await say(
            "v2 other", lambda: v2.infer(url, narrow_tensor, model_name="other", headers=headers())
        )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
