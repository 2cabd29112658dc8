"""The pod template on record: what a Deployment was given, so that an operator of another version can go on giving it.

The record is an annotation of the Deployment. It holds the template as it was applied, without the API server's defaults and
without what anybody changed since, so a change by hand is undone with it.
"""

from __future__ import annotations

import json

from scoring_operator.api import Manifest
from scoring_operator.manifests import names

# All annotations of an object may take 256 KiB together
# (https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/).
_LONGEST_RECORD = 200 * 1024


def record_template(template: Manifest) -> str | None:
    """The annotation's value; None when the template is too large for one, for instance by a large sample request."""
    text = json.dumps(template, separators=(",", ":"), ensure_ascii=False)
    return text if len(text.encode()) <= _LONGEST_RECORD else None


def read_template(record: str, revision: str) -> Manifest | None:
    """The template that is on record.

    Args:
        record: the annotation's value.
        revision: that the template must be of.

    Returns:
        None when the record is of another revision, or nothing that this program wrote.
    """
    try:
        template = json.loads(record)
        found = template["metadata"]["labels"][names.REVISION_LABEL]
    except (ValueError, KeyError, TypeError):
        return None
    return template if found == revision else None
