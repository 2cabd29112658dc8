"""Objects and their schemas: defaulting, pruning, validation, patches, server-side apply.

Takes plain dicts (the JSON of an object) and a `Schema`, gives plain dicts and `FieldError`s. It never speaks HTTP,
never stores anything, never reads a clock: times are arguments. Arguments are never edited; results may share
unchanged parts with them, so callers treat every object as immutable too.
"""

from local_cluster.schema.apply import keep_unchanged, server_side_apply, track_update
from local_cluster.schema.catalog import Catalog
from local_cluster.schema.crd import crd_schema, validate_crd
from local_cluster.schema.decoding import decode_error
from local_cluster.schema.defaults import apply_defaults
from local_cluster.schema.errors import ApplyConflict, FieldError, PatchError
from local_cluster.schema.node import Schema
from local_cluster.schema.patches import json_merge_patch, json_patch
from local_cluster.schema.pod_warnings import warn_pods
from local_cluster.schema.pruning import duplicate_fields, prune
from local_cluster.schema.strategic import strategic_merge_patch
from local_cluster.schema.validation import validate

__all__ = [
    "ApplyConflict",
    "Catalog",
    "FieldError",
    "PatchError",
    "Schema",
    "apply_defaults",
    "crd_schema",
    "decode_error",
    "duplicate_fields",
    "json_merge_patch",
    "json_patch",
    "keep_unchanged",
    "prune",
    "server_side_apply",
    "strategic_merge_patch",
    "track_update",
    "validate",
    "validate_crd",
    "warn_pods",
]
