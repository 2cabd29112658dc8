"""Request bodies in Kubernetes' protobuf form: bytes in, manifests out.

Newer kubectl sends what it creates from typed objects this way (``kubectl create``, ``auth can-i``). The envelope is
https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding; field numbers of the served types are
in ``protobuf_fields.json.gz``, taken from the ``generated.proto`` files of k8s.io/api. Answers are always JSON, which
every client that sends protobuf accepts too.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

Manifest = dict[str, Any]

MAGIC = b"k8s\x00"

# The wire does not tell an unset number from a zero; these are pointers in Go, so they are on the wire only when set.
_MEANINGFUL_ZEROS = frozenset(
    {
        "replicas",
        "minReplicas",
        "completions",
        "parallelism",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "terminationGracePeriodSeconds",
        "gracePeriodSeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
        "startingDeadlineSeconds",
        "runAsUser",
        "runAsGroup",
        "fsGroup",
        "priority",
        "partition",
        "value",
        "automountServiceAccountToken",
        "allowPrivilegeEscalation",
        "privileged",
        "readOnlyRootFilesystem",
        "runAsNonRoot",
        "enableServiceLinks",
        "immutable",
        "optional",
        "suspend",
        "controller",
        "blockOwnerDeletion",
        "orphanDependents",
        "allowVolumeExpansion",
    }
)


class ProtobufError(ValueError):
    """The bytes are no Kubernetes object in protobuf form, or of a kind that is not known."""


@cache
def _fields() -> Manifest:
    data = files(__package__).joinpath("protobuf_fields.json.gz").read_bytes()
    tables: Manifest = json.loads(gzip.decompress(data))
    return tables


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _records(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
            case 1:
                yield tag >> 3, data[at : at + 8]
                at += 8
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ProtobufError("unexpected EOF")
                yield tag >> 3, data[at : at + length]
                at += length
            case 5:
                yield tag >> 3, data[at : at + 4]
                at += 4
            case wire_type:
                raise ProtobufError(f"proto: illegal wireType {wire_type}")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _time(data: bytes, micro: bool) -> str | None:
    parts = {number: _signed(value) for number, value in _records(data) if isinstance(value, int)}
    if not parts:
        return None
    moment = datetime.fromtimestamp(parts.get(1, 0), UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{parts.get(2, 0) // 1000:06d}Z" if micro else f"{text}Z"


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_records(data))
    if parts.get(1):
        text = parts.get(3, b"")
        return text.decode() if isinstance(text, bytes) else ""
    number = parts.get(2, 0)
    return _signed(number) if isinstance(number, int) else 0


def _value(type_: str, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        return bool(raw) if type_ == "bool" else _signed(raw)
    match type_:
        case "string":
            return raw.decode()
        case "bytes":
            return base64.b64encode(raw).decode()
        case "double":
            return struct.unpack("<d", raw)[0]
        case "apis.meta.v1.Time" | "apis.meta.v1.MicroTime":
            return _time(raw, type_.endswith("MicroTime"))
        case "util.intstr.IntOrString":
            return _int_or_string(raw)
        case "api.resource.Quantity":
            text = dict(_records(raw)).get(1, b"")
            return text.decode() if isinstance(text, bytes) else ""
        case "runtime.RawExtension" | "apis.meta.v1.FieldsV1":
            inner = dict(_records(raw)).get(1, b"")
            return json.loads(inner) if isinstance(inner, bytes) and inner else None
        case "authorization.v1.ExtraValue" | "authentication.v1.ExtraValue":
            return [item.decode() for _, item in _records(raw) if isinstance(item, bytes)]
        case _:
            return _message(type_, raw)


def _pair(type_: str, raw: bytes) -> tuple[str, Any]:
    parts = dict(_records(raw))
    key = parts.get(1, b"")
    value = parts.get(2, b"" if type_ not in {"int32", "int64"} else 0)
    return (key.decode() if isinstance(key, bytes) else ""), _value(type_, value)


def _message(type_: str, data: bytes) -> Manifest:
    table = _fields()["messages"].get(type_, {})
    result: Manifest = {}
    for number, raw in _records(data):
        if str(number) not in table:
            continue
        name, field_type, shape = table[str(number)]
        if shape == "m":
            assert isinstance(raw, bytes)
            key, value = _pair(field_type, raw)
            result.setdefault(name, {})[key] = value
        elif shape == "r":
            items = result.setdefault(name, [])
            if isinstance(raw, bytes) and field_type in {"int32", "int64"}:  # packed
                at = 0
                while at < len(raw):
                    item, at = _varint(raw, at)
                    items.append(_signed(item))
            else:
                items.append(_value(field_type, raw))
        elif shape == "i":
            assert isinstance(raw, bytes)
            result.update(_message(field_type, raw))
        else:
            value = _value(field_type, raw)
            unset = (
                value is None or value == "" or (not value and not isinstance(value, (dict, list)))
            )
            if not unset or (value is not None and name in _MEANINGFUL_ZEROS):
                result[name] = value
    return result


def decode_manifest(body: bytes) -> Manifest:
    """Decode one object.

    Args:
        body: the whole body, envelope included.

    Raises:
        ProtobufError: it is not in the form, or of an unknown kind.
    """
    if not body.startswith(MAGIC):
        raise ProtobufError(
            "provided data does not appear to be a protobuf message, expected prefix 6b 38 73 00"
        )
    try:
        envelope = dict(_records(body[4:]))
        type_meta = dict(_records(_bytes(envelope.get(1, b""))))
        api_version = _bytes(type_meta.get(1, b"")).decode()
        kind = _bytes(type_meta.get(2, b"")).decode()
        message = _fields()["kinds"].get(f"{api_version} {kind}")
        if message is None:
            raise ProtobufError(f'no kind "{kind}" is registered for version "{api_version}"')
        decoded = _message(message, _bytes(envelope.get(2, b"")))
    except (IndexError, UnicodeDecodeError, struct.error, AssertionError, TypeError) as err:
        raise ProtobufError("proto: the message is malformed") from err
    return {"apiVersion": api_version, "kind": kind, **decoded}


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ProtobufError("proto: the message is malformed")
    return value
