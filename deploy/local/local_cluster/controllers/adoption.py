"""Which objects belong to a controller: adopt matching orphans, release what no longer matches."""

from __future__ import annotations

from local_cluster.client import ApiError, Client, Manifest, Resource
from local_cluster.controllers.owners import build_controller_reference, controller_of
from local_cluster.controllers.selectors import matches_selector


async def claim(
    client: Client,
    owner: Manifest,
    owner_resource: Resource,
    resource: Resource,
    candidates: list[Manifest],
) -> list[Manifest]:
    """Take possession of matching objects, as ControllerRefManager does.

    Args:
        client: an open client.
        owner: the controller object, with ``spec.selector``.
        owner_resource: its resource.
        resource: the candidates' resource.
        candidates: objects it controls already, and orphans of its namespace.

    Returns:
        The objects that belong to the owner now.
    """
    uid = owner["metadata"]["uid"]
    leaving = bool(owner["metadata"].get("deletionTimestamp"))
    claimed: list[Manifest] = []
    fresh: Manifest | None = None
    for item in candidates:
        reference = controller_of(item)
        matches = matches_selector(owner["spec"].get("selector"), item["metadata"].get("labels"))
        if reference is not None:
            if reference["uid"] != uid:
                continue
            if matches:
                claimed.append(item)
            elif not leaving:
                await _release(client, item, uid, resource)
            continue
        if not matches or leaving or item["metadata"].get("deletionTimestamp"):
            continue
        if fresh is None:
            # Nothing is adopted on the word of a cache that may not know of the owner's end.
            fresh = await client.get(
                owner_resource, owner["metadata"]["name"], owner["metadata"]["namespace"]
            )
        if fresh["metadata"]["uid"] != uid or fresh["metadata"].get("deletionTimestamp"):
            break
        adopted = await _adopt(client, item, owner, owner_resource, resource)
        if adopted is not None:
            claimed.append(adopted)
    return claimed


async def _adopt(
    client: Client,
    item: Manifest,
    owner: Manifest,
    owner_resource: Resource,
    resource: Resource,
) -> Manifest | None:
    metadata = item["metadata"]
    references = metadata.get("ownerReferences") or []
    body = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": [*references, build_controller_reference(owner, owner_resource)],
        }
    }
    try:
        return await client.patch(resource, metadata["name"], metadata["namespace"], body)
    except ApiError as err:
        if err.status in (404, 409, 422):
            return None
        raise


async def _release(client: Client, item: Manifest, owner_uid: str, resource: Resource) -> None:
    metadata = item["metadata"]
    body = {
        "metadata": {
            "uid": metadata["uid"],
            "ownerReferences": [
                reference
                for reference in metadata.get("ownerReferences") or []
                if reference["uid"] != owner_uid
            ],
        }
    }
    try:
        await client.patch(resource, metadata["name"], metadata["namespace"], body)
    except ApiError as err:
        if err.status not in (404, 409, 422):
            raise
