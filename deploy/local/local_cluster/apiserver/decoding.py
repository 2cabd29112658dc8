"""From a decoded request body to an object of the right type, with the fields that its type knows.

Type and name are checked against the path, unknown fields are dropped, reported or refused, defaults filled in.
"""

from __future__ import annotations

import orjson

from local_cluster.apiserver.cluster import Cluster, WriteOptions
from local_cluster.apiserver.errors import ApiError, bad_request, invalid
from local_cluster.apiserver.resources import Manifest, Resource
from local_cluster.schema import apply_defaults, decode_error, prune


def check_type(
    obj: Manifest, resource: Resource, kind: str = "", api_version: str = ""
) -> Manifest:
    """Check that an object is what its path says.

    Args:
        obj: the decoded body.
        resource: the type of the path.
        kind: what to expect where it is not the resource's own kind (a subresource's).
        api_version: likewise.

    Returns:
        The object, its type filled in where a built-in type lacks it.

    Raises:
        ApiError: 400, it is of another type.
    """
    kind, api_version = kind or resource.kind, api_version or resource.api_version
    found_kind, found_version = obj.get("kind"), obj.get("apiVersion")
    if resource.crd is not None:
        for field, found in (("Kind", found_kind), ("apiVersion", found_version)):
            if not found:
                text = orjson.dumps(obj).decode()
                raise bad_request(
                    f"unable to decode: Object '{field}' is missing in '{text}'"
                    if field == "apiVersion"
                    else f"Object 'Kind' is missing in '{text}'"
                )
    if found_version and found_version != api_version:
        raise bad_request(
            f"the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )
    if found_kind and found_kind != kind:
        version = api_version.rpartition("/")[2]
        raise bad_request(
            f'{found_kind} in version "{version}" cannot be handled as a {kind}: '
            f"the kind in the data ({found_kind}) does not match the expected kind ({kind})"
        )
    if not found_kind or not found_version:
        obj = {"kind": kind, "apiVersion": api_version, **{k: v for k, v in obj.items() if v}}
        obj["kind"], obj["apiVersion"] = kind, api_version
    metadata = obj.get("metadata")
    if metadata is None:
        return {**obj, "metadata": {}}
    if not isinstance(metadata, dict):
        raise bad_request(
            f'{kind} in version "{api_version.rpartition("/")[2]}" cannot be handled as a {kind}: '
            "json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta"
        )
    return obj


def check_place(obj: Manifest, resource: Resource, namespace: str, name: str) -> Manifest:
    """Check that an object belongs where its path points; fills in the namespace.

    Raises:
        ApiError: 400, name or namespace differ from the path.
    """
    metadata = dict(obj["metadata"])
    if resource.namespaced:
        if metadata.get("namespace", namespace) != namespace and metadata.get("namespace"):
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        metadata["namespace"] = namespace
    elif metadata.get("namespace"):
        raise bad_request("namespace is not allowed on this type")
    else:
        metadata.pop("namespace", None)
    if name:
        found = metadata.get("name")
        if found and found != name:
            raise bad_request(
                f"the name of the object ({found}) does not match the name on the URL ({name})"
            )
        metadata["name"] = name
    return {**obj, "metadata": metadata}


def shape(
    obj: Manifest,
    resource: Resource,
    cluster: Cluster,
    options: WriteOptions,
    origin: str = "create",
) -> Manifest:
    """Prune and default an object.

    Args:
        obj: of the right type.
        resource: its type.
        cluster: for the schema.
        options: decide what happens to unknown fields.
        origin: ``create``, ``update`` or ``patch``: the real server words its refusals differently.

    Raises:
        ApiError: 400 or 422, the object does not fit its type, or has unknown fields under strict validation.
    """
    schema = cluster.schema(resource)
    if schema is None:
        return obj
    try:
        refuse_wrong_types(obj, resource, cluster)
    except ApiError as err:
        if origin != "patch":
            raise
        raise _patch_error(err.message.partition(": ")[2], obj) from err
    pruned, unknown = prune(obj, schema)
    if unknown and options.field_validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in unknown]
        if options.field_validation == "Strict":
            raise strict_error(", ".join(texts), obj, resource, origin)
        options.warnings.extend(texts)
    return apply_defaults(pruned, schema, resource.group, resource.version, resource.kind)


def refuse_wrong_types(obj: Manifest, resource: Resource, cluster: Cluster) -> None:
    """Refuse an object whose JSON does not fit the types of its fields.

    Raises:
        ApiError: 400.
    """
    if resource.crd is not None:
        # Metadata has the same Go type in all objects, custom ones included.
        schema = cluster.catalog.schema("", "v1", "ConfigMap")
        obj = {"metadata": obj["metadata"]}
    else:
        schema = cluster.schema(resource)
    if schema is not None:
        problem = decode_error(obj, schema, resource.group, resource.version, resource.kind)
        if problem is not None:
            raise bad_request(problem)


def fill_defaults(obj: Manifest, resource: Resource, cluster: Cluster) -> Manifest:
    """Default an object that is known to have no unknown fields, as the result of an apply is."""
    schema = cluster.schema(resource)
    if schema is None:
        return obj
    return apply_defaults(obj, schema, resource.group, resource.version, resource.kind)


def strict_error(problems: str, obj: Manifest, resource: Resource, origin: str) -> ApiError:
    """Build the refusal of unknown or doubled fields."""
    problem = f"strict decoding error: {problems}"
    if origin != "patch":
        return bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {problem}'
        )
    return _patch_error(problem, obj)


def _patch_error(problem: str, obj: Manifest) -> ApiError:
    """Build the refusal of a patch whose result does not decode."""
    # The real server quotes the whole patched object here; clients show only the end of it.
    text = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS).decode()
    quoted = orjson.dumps(text).decode()
    cause = {
        "reason": "FieldValueInvalid",
        "message": f"Invalid value: {quoted}: {problem}",
        "field": "patch",
    }
    return invalid("", "", "", [cause])
