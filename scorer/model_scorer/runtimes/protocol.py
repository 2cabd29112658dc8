"""The seam between the server and the frameworks: what a runtime takes, gives and says about itself.

The way of one request: a dialect decodes bytes into a `Call` whose `input` is one of the input types below →
`Runtime.prepare` validates it against the signature and makes it `Prepared` → the batcher collects `Prepared` of one
group → `Runtime.execute` scores them in one call and gives one outcome for each → the dialect encodes the `Output`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from model_scorer.errors import RequestError
    from model_scorer.runtimes.model_folder import ModelFolder
    from model_scorer.settings import Settings

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]


# ---------------------------------------------------------------------------------------------------- signature


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of a signature.

    Attributes:
        name: as clients write it.
        datatype: of the Open Inference Protocol: BOOL, UINT8 … INT64, FP16, BF16, FP32, FP64, BYTES.
        shape: with -1 for a size that is free; axis 0 is the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, as far as it can be known.

    Attributes:
        inputs: one tensor (rows of numbers or texts, an image batch), or several (named inputs, or one per column).
        outputs: in the order in which dialects with positional answers show them; the first is the answer.
        columns: names of the columns when the input is one table, in the order the model was fitted with; else empty.
        row_width: numbers in one row when the input is one matrix; None when unknown or not a matrix.
        classes: what a classifier tells apart, as it answers them, in the order of its probabilities; empty when it is
            none, or not known.
        optional: columns that a row may leave out; they are null then.
        times: columns of dates and times, written as in ISO 8601; their datatype is BYTES.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    columns: tuple[str, ...] = ()
    row_width: int | None = None
    classes: tuple[str | int | float | bool, ...] = ()
    optional: frozenset[str] = frozenset()
    times: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What the server must know about a runtime to run it well.

    Attributes:
        framework: the ScoringModel's framework.
        version: the framework's version, as `GET /version` shows it.
        platform: the V2 metadata's platform (`sklearn`, `pytorch_export`, …).
        batches: whether `execute` gains from more than one request at a time.
        max_batch_rows: a bound of the runtime's own below the setting's, or None.
        may_block: `execute` runs code of unknown duration (a user's script): never on the event loop.
        prepare_threads: threads on which `prepare` runs (image decoding); 0: on the event loop, for work of microseconds.
        concurrency: batches that `execute` may be given at the same time from different threads (2 on a GPU, so that
            one batch is copied while the other computes); 1 for everything that is not reentrant.
        spreads: rows that wait are shared out evenly among the idle of `concurrency`, instead of filling one batch after
            the other: right for cores that compute side by side, wrong for a GPU.
        scripted: `run(data)` of a score script takes the raw body: dialects give it `TextInput`.
        media: request content types beside JSON that `prepare` can take as `BlobsInput` (`image/*`), patterns allowed.
        takes_rows: a single tensor of float64 may come as `RowsInput` as well, whatever its name: a few rows are then
            validated and joined for the whole batch.
    """

    framework: str
    version: str
    platform: str
    batches: bool = True
    max_batch_rows: int | None = None
    may_block: bool = False
    prepare_threads: int = 0
    concurrency: int = 1
    spreads: bool = False
    scripted: bool = False
    media: tuple[str, ...] = ()
    takes_rows: bool = False


# -------------------------------------------------------------------------------------------------------- input


@dataclass(slots=True)
class RowsInput:
    """Rows as JSON has them: a list with one item per row (numbers, strings, lists, or dicts by column name)."""

    rows: list[Any]


@dataclass(slots=True)
class TableInput:
    """A table by columns: names, and for each row a list in the same order (MLflow's `dataframe_split`, CSV)."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(slots=True)
class TensorsInput:
    """Named arrays whose dtype and shape are already checked (V2, MLflow's `inputs`); axis 0 holds the rows.

    Texts are arrays of dtype object holding `str` (or `bytes` where they are no UTF-8).
    """

    tensors: Tensors


@dataclass(slots=True)
class Blob:
    """One undecoded file: an image in a raw body, a multipart part, or a base64 string in JSON.

    Attributes:
        data: the bytes; base64 is already undone.
        media_type: as declared by the client, or empty.
        key: the name under which the answer must show it (the reference's `{"image": …}`), or empty.
        error: why the bytes could not be had (base64 that is none): what this file alone is answered with.
    """

    data: bytes
    media_type: str = ""
    key: str = ""
    error: RequestError | None = None


@dataclass(slots=True)
class BlobsInput:
    """Files for a runtime that decodes them itself; one row each."""

    blobs: list[Blob]


@dataclass(slots=True)
class TextInput:
    """The raw body, for score scripts: `run(data)` takes it as it came."""

    text: str


Input = RowsInput | TableInput | TensorsInput | BlobsInput | TextInput


_NOTHING: Mapping[str, Any] = {}


class Call:
    """One request as a runtime sees it.

    Attributes:
        input: one of the input types.
        outputs: names of the outputs the client asked for; empty: the runtime's first.
        parameters: request parameters of the dialect (V2 `parameters`, MLflow `params`); never changed.
        headers: request headers by lower-case name; API keys are already removed. Never changed.
        method: the HTTP method.
        body: the raw body, for scripts that want the request itself.
    """

    # Written out, for one is made for each request and a dataclass would make two empty dicts with it.
    __slots__ = ("body", "headers", "input", "method", "outputs", "parameters")

    def __init__(
        self,
        input: Input,
        outputs: tuple[str, ...] = (),
        parameters: Mapping[str, Any] = _NOTHING,
        headers: Mapping[str, str] = _NOTHING,
        method: str = "POST",
        body: bytes = b"",
    ) -> None:
        self.input = input
        self.outputs = outputs
        self.parameters = parameters
        self.headers = headers
        self.method = method
        self.body = body


@dataclass(slots=True)
class Prepared:
    """A call that passed validation.

    Attributes:
        payload: the runtime's own form of the input.
        rows: rows it brings to a batch, at least 1.
        group: calls of equal groups may be scored in one `execute`: dtype and trailing shape of each array, columns,
            outputs asked for. Never equal for what must not be merged.
    """

    payload: Any
    rows: int
    group: Hashable


# ------------------------------------------------------------------------------------------------------- output


@dataclass(slots=True)
class Prediction:
    """Arrays by output name, axis 0 the rows.

    Attributes:
        tensors: in the order asked for; never empty.
        display: what dialects of plain JSON show instead of the first tensor (labelled scores), or None.
    """

    tensors: Tensors
    display: list[Any] | None = None


@dataclass(slots=True)
class JsonValue:
    """What a score script returned: a value for JSON, shown as it is.

    Attributes:
        value: anything that `encode_json` in `json_text.py` can encode.
        exec_ms: time in `run`, for Azure ML's header.
    """

    value: Any
    exec_ms: float = 0.0


@dataclass(slots=True)
class RawResponse:
    """What a score script returned as a whole HTTP response (Azure ML's AMLResponse)."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    exec_ms: float = 0.0


Output = Prediction | JsonValue | RawResponse


class Runtime(Protocol):
    """A loaded model.

    Made by the registry's `load(model_dir, settings)`, in the process that forks the workers, or in each worker where
    the framework cannot be forked (a GPU context). No method is called from two threads at once unless
    `info.concurrency` or `info.prepare_threads` says so.
    """

    @property
    def info(self) -> RuntimeInfo:
        """What the server must know; constant after `warm_up`."""
        ...

    @property
    def signature(self) -> Signature:
        """What the model takes and gives; may be refined by `warm_up`."""
        ...

    def prepare(self, call: Call) -> Prepared:
        """Validate one call and bring it into the form that `execute` takes.

        Raises:
            InvalidInput: it does not fit the signature; the message names expected and got.
            RequestError: any other mistake of the client.
        """
        ...

    def execute(self, batch: Sequence[Prepared]) -> Sequence[Output | Exception]:
        """Score prepared calls of one group.

        Args:
            batch: at least one; all with equal `group`.

        Returns:
            One outcome for each, in order. An exception in the list fails that call alone.

        Raises:
            Exception: the whole batch failed; the batcher then tries each call alone, so that only the guilty fail.
        """
        ...

    def warm_up(self) -> Prepared | None:
        """Prepare for speed in the process that will serve: first calls, caches, kernels for the batch sizes in use.

        Returns:
            A made-up call that `execute` can be timed with, or None when none can be made (a score script). The server
            times it and decides between running on the event loop and on the compute thread.
        """
        ...

    def close(self) -> None:
        """Release what the process would not release by itself."""
        ...


class RuntimeModule(Protocol):
    """What a runtime's module must define; the registry imports it when its framework is asked for."""

    def load(self, folder: ModelFolder, settings: Settings) -> Runtime:
        """Load the model in the folder.

        Raises:
            ScorerError: MissingDependency, LoadFailed, UnsafePickle, VersionMismatch, NoGPU, InvalidSpec …
        """
        ...

    def load_in_worker(self, settings: Settings) -> bool:
        """Whether the process that serves must load for itself, because the framework's state does not survive a fork.

        There is one such process then, with one copy of the model; `info.concurrency` says how it uses the cores, whose
        number is `settings.workers`.
        """
        ...


def stack_rows(arrays: Sequence[Array]) -> Array:
    """Join arrays of equal dtype and trailing shape along axis 0; a single one is returned as it is."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def split_rows(batch: Array, sizes: Sequence[int]) -> list[Array]:
    """Cut a batched output back into one array per call.

    Args:
        batch: shape (sum(sizes), ...), any dtype; axis 0 holds the rows.
        sizes: rows each call brought, in arrival order, each >= 1.

    Returns:
        len(sizes) views of `batch`; the i-th has shape (sizes[i], ...).

    Raises:
        ValueError: the model returned another number of rows.
    """
    if len(batch) != sum(sizes):
        raise ValueError(f"the model returned {len(batch)} rows for {sum(sizes)}")
    out, start = [], 0
    for size in sizes:
        out.append(batch[start : start + size])
        start += size
    return out
