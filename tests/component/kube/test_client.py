"""Every verb of the client against a real kube-apiserver: what comes back, and which error for which mistake."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aifactory.kube.api import Api
from aifactory.kube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, Invalid, NotFound
from aifactory.kube.objects import ObjectList, PartialObject, Pod, decoder
from aifactory.kube.resources import CONFIGMAPS, PODS, SERVICES, Resource

decode_pod = decoder(Pod)
decode_list = decoder(ObjectList[PartialObject])


def pod(namespace: str, name: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "none"}], "terminationGracePeriodSeconds": 0},
    }


def config(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def data_of(raw: bytes) -> dict[str, str]:
    data: dict[str, str] = msgspec.json.decode(raw).get("data", {})
    return data


async def test_create_get_and_delete(client: Api, namespace: str) -> None:
    created = decode_pod(await client.create(PODS, pod(namespace, "a")))
    assert created.status.phase == "Pending"
    assert created.metadata.uid
    assert decode_pod(await client.get(PODS, namespace, "a")).metadata.uid == created.metadata.uid

    with pytest.raises(AlreadyExists):
        await client.create(PODS, pod(namespace, "a"))
    with pytest.raises(Conflict, match="UID"):
        await client.delete(PODS, namespace, "a", uid="00000000-0000-0000-0000-000000000000")
    await client.delete(PODS, namespace, "a", uid=created.metadata.uid, grace_seconds=0)
    with pytest.raises(NotFound):
        await client.delete(PODS, namespace, "a", uid=created.metadata.uid)


async def test_a_refused_object_comes_with_the_servers_words(client: Api, namespace: str) -> None:
    wrong = pod(namespace, "a")
    wrong["spec"]["containers"][0]["name"] = "Not A Name"
    with pytest.raises(Invalid, match=r"spec.containers\[0\].name") as caught:
        await client.create(PODS, wrong)
    assert caught.value.details is not None
    assert caught.value.details.causes
    with pytest.raises(NotFound, match="namespaces"):
        await client.create(PODS, pod("no-such-namespace", "a"))
    with pytest.raises(NotFound):
        await client.list(Resource("no.such.group", "v1", "things", "Thing"))


async def test_a_dry_run_is_checked_as_a_creation_and_keeps_nothing(client: Api, namespace: str) -> None:
    assert decode_pod(await client.create(PODS, pod(namespace, "a"), dry_run=True)).metadata.name == "a"
    with pytest.raises(NotFound):
        await client.get(PODS, namespace, "a")
    await client.create(PODS, pod(namespace, "a"))
    wrong = pod(namespace, "a")
    wrong["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(BadRequest, match="imagePullPolcy"):
        await client.create(PODS, wrong, dry_run=True)
    urgent = pod(namespace, "a")
    urgent["spec"]["priorityClassName"] = "urgent"
    with pytest.raises(Forbidden, match="no PriorityClass with name urgent"):
        await client.create(PODS, urgent, dry_run=True)
    with pytest.raises(AlreadyExists):  # asked last, when all else is in order
        await client.create(PODS, pod(namespace, "a"), dry_run=True)


async def test_apply_owns_its_fields_and_nobody_elses(client: Api, namespace: str) -> None:
    await client.apply(CONFIGMAPS, config(namespace, "a", ours="1", also="1"), field_manager="one")
    await client.apply(CONFIGMAPS, config(namespace, "a", theirs="2"), field_manager="two")
    raw = await client.apply(CONFIGMAPS, config(namespace, "a", ours="3"), field_manager="one")
    assert data_of(raw) == {"ours": "3", "theirs": "2"}
    with pytest.raises(Conflict, match="two"):
        await client.apply(CONFIGMAPS, config(namespace, "a", theirs="4"), field_manager="one", force=False)
    raw = await client.apply(CONFIGMAPS, config(namespace, "a", ours="3", theirs="4"), field_manager="one")
    assert data_of(raw) == {"ours": "3", "theirs": "4"}
    version = msgspec.json.decode(raw)["metadata"]["resourceVersion"]
    again = await client.apply(CONFIGMAPS, config(namespace, "a", ours="3", theirs="4"), field_manager="one")
    assert msgspec.json.decode(again)["metadata"]["resourceVersion"] == version, "an apply without a change wrote"


async def test_patches_hold_on_to_the_version_they_were_made_for(client: Api, namespace: str) -> None:
    first = decode_pod(await client.create(PODS, pod(namespace, "a"))).metadata
    second = decode_pod(await client.patch(PODS, namespace, "a", {"metadata": {"labels": {"x": "1"}}})).metadata
    assert second.labels == {"x": "1"}
    with pytest.raises(Conflict):
        await client.patch(
            PODS, namespace, "a", {"metadata": {"labels": {"x": "2"}}}, resource_version=first.resource_version
        )
    operations = [{"op": "replace", "path": "/metadata/labels/x", "value": "3"}]
    with pytest.raises(Conflict):
        await client.patch(PODS, namespace, "a", operations, type="json", resource_version=first.resource_version)
    raw = await client.patch(PODS, namespace, "a", operations, type="json", resource_version=second.resource_version)
    assert decode_pod(raw).metadata.labels == {"x": "3"}


async def test_a_status_is_only_written_to_the_object_that_was_seen(client: Api, namespace: str) -> None:
    seen = decode_pod(await client.create(PODS, pod(namespace, "a"))).metadata
    running = decode_pod(
        await client.patch_status(
            PODS,
            namespace,
            "a",
            {"phase": "Running", "message": "well"},
            resource_version=seen.resource_version,
        )
    )
    assert running.status.phase == "Running"
    with pytest.raises(Conflict):
        await client.patch_status(PODS, namespace, "a", {"phase": "Failed"}, resource_version=seen.resource_version)
    await client.delete(PODS, namespace, "a", grace_seconds=0)
    await client.create(PODS, pod(namespace, "a"))
    with pytest.raises(Conflict):
        await client.patch_status(
            PODS, namespace, "a", {"phase": "Failed"}, resource_version=running.metadata.resource_version
        )
    await client.patch_status(PODS, namespace, "a", {"phase": "Running", "message": "well"})
    cleared = decode_pod(await client.patch_status(PODS, namespace, "a", {"message": None}))
    assert (cleared.status.phase, cleared.status.message) == ("Running", "")
    with pytest.raises(NotFound):
        await client.patch_status(PODS, namespace, "nobody", {"phase": "Failed"})


async def test_lists_come_in_pages_by_selector_and_as_metadata(client: Api, namespace: str) -> None:
    for number in range(7):
        await client.create(
            SERVICES,
            {
                "metadata": {"name": f"s{number}", "namespace": namespace, "labels": {"odd": str(number % 2)}},
                "spec": {"ports": [{"port": 80}]},
            },
        )
    names: list[str] = []
    continue_ = ""
    pages = 0
    while pages == 0 or continue_:
        raw = await client.list(
            SERVICES, namespace=namespace, label_selector="odd=0", limit=3, continue_=continue_, metadata_only=True
        )
        assert b"clusterIP" not in raw
        page = decode_list(raw)
        names += [item.metadata.name for item in page.items or ()]
        continue_ = page.metadata.continue_
        pages += 1
    assert (names, pages) == (["s0", "s2", "s4", "s6"], 2)


async def test_watch_delivers_what_happens_after_a_version(client: Api, namespace: str) -> None:
    page = decode_list(await client.list(PODS, namespace=namespace))
    await client.create(PODS, pod(namespace, "a", app="x"))
    await client.patch(PODS, namespace, "a", {"metadata": {"labels": {"more": "1"}}})
    await client.delete(PODS, namespace, "a", grace_seconds=0)
    types: list[str] = []
    async with asyncio.timeout(20):
        async for batch in client.watch(
            PODS, resource_version=page.metadata.resource_version, namespace=namespace, timeout_seconds=5
        ):
            types += [msgspec.json.decode(line)["type"] for line in batch]
    # A pod's deletion is two steps even without a grace period; a bookmark comes before the server ends the stream.
    assert [type_ for type_ in types if type_ != "BOOKMARK"] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
