"""A factory at work is brought from the release before to this one, back, and forward again.

The tests are a story, in this order. What a release must not replace is the pods that train, serve and lead requests:
they are known by their UIDs. Clients ask all the time, and none may ever fail.
"""

from __future__ import annotations

import pytest

from tests.cluster import objects
from tests.support.kubectl import condition
from tests.upgrade.factory import CRDS, Factory, Release
from tests.upgrade.previous import REGISTRY

THEIRS, OURS = f"{REGISTRY}/operator:0.1.0", "aifactory/operator:0.1.0"
KEEP = (f"images.server.registry={REGISTRY}", f"images.gateway.registry={REGISTRY}")
"""Values with which an upgrade brings the operator and what it starts anew, and changes no pool."""
STICKY = {"gateway": {"stickiness": {"promptBytes": 64}}}
"""A field that the release before has not got."""


@pytest.mark.timeout(2400)  # its images may have to be built
def test_the_release_before_is_installed_and_works(release: Release, factory: Factory) -> None:
    release.wait_until_leads(THEIRS)
    assert "stickiness" not in factory.within.run("get", "crd", CRDS[2], "-o", "json").out
    assert {name: told[0] for (_, name), told in factory.truths().items()} == {
        "ended": "True",
        "trains": "True",
        "about-to-end": "True",
        "tiny-v1": "True",
        "front": "True",
        "pinned": "True",
    }


def test_an_upgrade_replaces_no_pod_and_loses_no_request(release: Release, factory: Factory) -> None:
    names, truths = factory.names(), factory.truths()
    release.upgrade(*KEEP)
    release.wait_until_leads(OURS)
    factory.trains_on()
    assert factory.truths() == truths, "nothing was less true in between"
    this_release_is_at_work(factory)
    assert factory.names() == names
    assert [each["metadata"]["name"] for each in factory.within.list("mver")] == ["tiny-v1"]


def this_release_is_at_work(factory: Factory) -> None:
    """Fields that are new do what they say, and all goes on."""
    front = factory.patch("ipool", "front", STICKY)
    assert front["spec"]["gateway"]["stickiness"] == {"promptBytes": 64}
    config = factory.within.get("configmap", "front-gateway")
    assert "ring_hash" in config["data"]["clusters.json"].lower()
    factory.patch("ipool", "pinned", {"cost": {"gpuHourPrice": "2.00"}})
    factory.patch("tjob", "trains", {"cost": {"gpuHourPrice": "2.00"}})
    factory.within.wait("tjob", "trains", "to tell its cost", lambda f: f["status"].get("cost", {}).get("gpuHourPrice"))
    factory.trains_on()
    factory.lost_nothing()


def test_a_rollback_and_the_way_forward_again_replace_none_either(release: Release, factory: Factory) -> None:
    names = factory.names()
    release.rollback(1)
    release.wait_until_leads(THEIRS)
    front = factory.patch("ipool", "front", {"gateway": {"accessLog": True}})
    assert "stickiness" not in front["spec"]["gateway"], "a field that the older CRD does not have is dropped"
    factory.patch("tjob", "trains", {"failurePolicy": {"maxRestarts": 7}})
    factory.trains_on()
    factory.lost_nothing()
    assert factory.names() == names

    release.upgrade(*KEEP)
    release.wait_until_leads(OURS)
    this_release_is_at_work(factory)
    assert factory.names() == names


def test_pools_get_the_new_images_one_after_another(release: Release, factory: Factory) -> None:
    training = {uid for uid, pod in factory.pods().items() if pod["metadata"]["labels"]["aifactory.dev/role"] == "node"}
    release.upgrade("maxConcurrentRollouts=1")
    factory.wait_for_images("aifactory")
    factory.trains_on()
    factory.lost_nothing()
    assert training <= factory.pods().keys()


def test_a_job_of_the_release_before_ends_and_its_version_is_served(release: Release, factory: Factory) -> None:
    within, names = factory.within, factory.names()
    within.run("exec", "about-to-end-0-0", "--", "touch", "/tmp/end")
    found = within.wait_condition("tjob", "about-to-end", "Complete")
    assert (found["status"]["output"]["modelVersion"], found["status"]["attempt"]) == ("tiny-v2", 0)
    within.wait_condition("mver", "tiny-v2", "Ready", seconds=120)
    within.wait("ipool", "front", "to serve version 2", lambda f: f["status"]["version"] == "2", seconds=120)
    factory.lost_nothing()
    assert factory.names() == names, "the pods that run change over"
    for pool, traffic in factory.traffic.items():
        summary = traffic.stop()
        print(f"{pool}: {summary['done']}")
        assert summary["failed"] == 0, summary


def test_it_is_removed_and_installed_as_on_the_first_day(release: Release, factory: Factory) -> None:
    within = factory.within
    within.run("delete", "ipool", "--all", "--timeout=60s")
    within.wait_condition("mver", "tiny-v2", "InUse", "False", seconds=60)
    within.run("delete", "tjob,mver", "--all", "--timeout=60s")
    release.remove()
    release.install_this()
    assert "Succeeded" in release.test()
    within.apply(objects.job("first", ["true"]))
    assert condition(within.wait_condition("tjob", "first", "Complete"), "Ready")["status"] == "True"
