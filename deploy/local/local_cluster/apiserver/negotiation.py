"""Content negotiation: Accept headers and request bodies of the forms that Kubernetes clients use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from local_cluster.apiserver.errors import bad_request, not_acceptable, unsupported_media_type
from local_cluster.apiserver.protobuf import ProtobufError, decode_manifest

JSON = "application/json"
YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
_BODY_TYPES = (JSON, YAML, PROTOBUF)


@dataclass(frozen=True, slots=True)
class Form:
    """The form of an answer.

    Attributes:
        media_type: ``application/json`` or ``application/yaml``.
        transform: empty, ``Table``, ``PartialObjectMetadata`` or ``PartialObjectMetadataList``.
        version: apiVersion of the transform, such as ``meta.k8s.io/v1``.
    """

    media_type: str = JSON
    transform: str = ""
    version: str = ""


PLAIN = Form()


def parse_accept(header: str) -> Form:
    """Choose the form of an answer.

    Args:
        header: the Accept header; empty accepts anything.

    Raises:
        ApiError: 406, nothing that is asked for can be given.
    """
    if not header or header in {"*/*", JSON}:
        return PLAIN
    for clause in header.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        options = dict(p.split("=", 1) for p in parameters if "=" in p)
        if media in {"*/*", "application/*", JSON}:
            media = JSON
        elif media != YAML:
            continue
        transform = options.get("as", "")
        if not transform:
            return Form(media)
        known = {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"}
        if (
            options.get("g") == "meta.k8s.io"
            and options.get("v") in {"v1", "v1beta1"}
            and transform in known
        ):
            return Form(media, transform, f"meta.k8s.io/{options['v']}")
    raise not_acceptable([JSON, YAML])


def parse_body(body: bytes, content_type: str) -> dict[str, Any]:
    """Decode the object in a request body.

    Raises:
        ApiError: 415 for another form, 400 for bytes that are not what they claim to be.
    """
    media = content_type.partition(";")[0].strip().lower() or JSON
    if media == PROTOBUF or (media == JSON and body.startswith(b"k8s\x00")):
        try:
            return decode_manifest(body)
        except ProtobufError as err:
            raise bad_request(str(err)) from err
    if media == JSON:
        value = parse_json(body)
    elif media == YAML:
        value = parse_yaml(body)
    else:
        raise unsupported_media_type(_BODY_TYPES)
    if not isinstance(value, dict):
        raise bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{_json_type(value)} into Go value of type struct"
        )
    return value


def parse_json(body: bytes) -> Any:
    """Decode JSON, or raise 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as err:
        raise bad_request(f"couldn't get version/kind; json parse error: {err}") from err


def parse_yaml(body: bytes) -> Any:
    """Decode YAML, of which JSON is the common case, or raise 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        value = yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return orjson.loads(
            orjson.dumps(value)
        )  # dates become strings, as in YAML-to-JSON converters
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, orjson.JSONEncodeError) as err:
        raise bad_request(f"error decoding YAML: {err}") from err


def _json_type(value: Any) -> str:
    if isinstance(value, list):
        return "array"
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    return "null" if value is None else "number"
