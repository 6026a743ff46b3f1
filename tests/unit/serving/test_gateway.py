"""A pool's gateway: when its Service leads there, what the proxies are told, and when the pool is Ready."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aifactory.api.reasons import ConditionType
from aifactory.engine.apply import Applied
from aifactory.engine.plan import Delete
from aifactory.kube.podstate import Crash
from aifactory.serving import envoy, gateway, traffic
from aifactory.serving.state import GatewayView, Observed, RevisionView, ServingPodView
from aifactory.serving.trouble import of_gateway
from tests.unit.golden import assert_golden, assert_known_to_kubernetes, assert_restricted
from tests.unit.serving.builders import SETTINGS, World, conditions, message, pool, serving, version
from tests.unit.serving.test_steps import ask

GOLDEN = Path(__file__).parent / "golden"
ENVOY = {"mode": "Envoy"}
TEMPLATE = {"spec": {"imagePullSecrets": [{"name": "registry"}]}}


def starting(**spec: Any) -> World:
    """A pool that is to have a gateway, all of whose pods serve."""
    world = World(pool(gateway=ENVOY, **spec))
    world.publish(1)
    world.roll_out()
    return world


def ready(**spec: Any) -> World:
    """The same with a gateway that is in place."""
    world = starting(**spec)
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    return world


def leads(world: World, door: str = "http") -> dict[str, Any]:
    """Where requests go that insist on nothing."""
    table = json.loads(world.files[f"routes-{door}.json"])["resources"][0]["virtual_hosts"][0]["routes"]
    found: dict[str, Any] = table[-1]["route"]
    return found


def pinned(world: World) -> dict[str, str]:
    """Clusters by the version that a header names."""
    table = json.loads(world.files["routes-http.json"])["resources"][0]["virtual_hosts"][0]["routes"]
    return {
        header["string_match"]["exact"]: route["route"]["cluster"]
        for route in table
        for header in route["match"].get("headers", ())
        if header["name"] == envoy.VERSION_HEADER and "string_match" in header
    }


def test_the_objects() -> None:
    view = RevisionView(Applied("chat-v2-0-1", "uid"), "v2-0-1", 2, model_version="tiny-v1")
    observed = Observed(pool(gateway=ENVOY, template=TEMPLATE), SETTINGS, versions=(version(1),), revisions=(view,))
    leads = gateway.routes(observed)
    digest, config = gateway.config_map(observed.pool, leads)
    made = [
        *gateway.services(observed.pool, leads),
        config,
        gateway.deployment(observed.pool, SETTINGS.gateway_image, digest),
        gateway.budget(observed.pool),
    ]
    for body in made:
        assert_known_to_kubernetes(body)
    pod = next(body for body in made if body["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert_restricted(pod)
    assert pod["automountServiceAccountToken"] is False
    assert_golden(GOLDEN / "gateway.yaml", made)
    opened = {name: json.loads(text) if name.endswith(".json") else text for name, text in config["data"].items()}
    assert_golden(GOLDEN / "gateway-files.yaml", [{name: found} for name, found in opened.items()])


WALLED = {
    **ENVOY,
    "apiKeys": {"secretRef": {"name": "chat-keys"}},
    "rateLimit": {"requestsPerMinute": 600, "clients": [{"name": "batch", "requestsPerMinute": 6000}]},
    "tls": {"secretRef": {"name": "chat-tls"}},
    "maxRequestBytes": 1048576,
    "timeoutSeconds": 120,
}


def test_the_objects_of_one_that_asks_for_keys_and_speaks_tls() -> None:
    owner = pool(gateway=WALLED)
    view = RevisionView(Applied("chat-v2-0-1", "uid"), "v2-0-1", 2, model_version="tiny-v1")
    leads = gateway.routes(Observed(owner, SETTINGS, versions=(version(1),), revisions=(view,)))
    digest, config = gateway.config_map(owner, leads)
    made = gateway.deployment(owner, SETTINGS.gateway_image, digest)
    assert_known_to_kubernetes(made)
    assert_restricted(made["spec"]["template"]["spec"])
    pod = made["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    told = {"labels": pod["metadata"]["labels"], "args": container["args"], "ready": container["readinessProbe"]}
    mounted = {"mounts": container["volumeMounts"], "volumes": pod["spec"]["volumes"]}
    assert_golden(GOLDEN / "gateway-walls.yaml", [told, mounted])
    opened = {name: json.loads(text) if name.endswith(".json") else text for name, text in config["data"].items()}
    shown = ("listeners-keys-tls.json", "bootstrap-keys-tls.json", "tls.json", "routes-openai.json")
    assert_golden(GOLDEN / "gateway-walls-files.yaml", [{name: opened[name]} for name in shown])
    assert {name for name in opened if name.startswith(("listeners", "bootstrap"))} == {
        f"{kind}{walls}.json" for kind in ("listeners", "bootstrap") for walls in ("", "-keys", "-tls", "-keys-tls")
    }


def test_walls_are_lowered_one_by_one() -> None:
    assert [walls.suffix for walls in envoy.Walls(keys=True, tls=True).lower] == ["", "-tls", "-keys", "-keys-tls"]
    assert list(envoy.NO_WALLS.lower) == [envoy.NO_WALLS]
    assert envoy.NO_WALLS.suffix == ""


def test_what_a_lower_wall_lets_pass() -> None:
    """By its files pods work that have no such Secret: nothing in them needs one."""
    owner = pool(gateway=WALLED)
    _, config = gateway.config_map(owner, gateway.routes(seen(GatewayView(), SET, gateway=WALLED)))
    for suffix, keys, tls in (("", 0, 0), ("-keys", 3, 0), ("-tls", 0, 3), ("-keys-tls", 3, 3)):
        text = config["data"][f"listeners{suffix}.json"]
        assert (text.count("filters.http.lua.v3"), text.count("DownstreamTlsContext")) == (keys, tls), suffix
        assert text.count("local_ratelimit.v3") == keys
        assert f"listeners{suffix}.json" in config["data"][f"bootstrap{suffix}.json"]


def test_a_limit_for_everybody_alike() -> None:
    spec = {**WALLED, "rateLimit": {"requestsPerMinute": 600}}
    _, config = gateway.config_map(pool(gateway=spec), gateway.routes(seen(GatewayView(), SET, gateway=spec)))
    bucket = {"fill_interval": "60s", "max_tokens": 600, "tokens_per_fill": 600}
    one = json.dumps({"descriptors": [{"entries": [{"key": "name"}], "token_bucket": bucket}]}).strip("{}")
    assert config["data"]["listeners-keys.json"].count(one) == 3, "of each port"


def test_the_access_log_names_the_caller_where_there_are_keys() -> None:
    spec = {**WALLED, "accessLog": True}
    _, config = gateway.config_map(pool(gateway=spec), gateway.routes(seen(GatewayView(), SET, gateway=spec)))
    line = '"caller": "%DYNAMIC_METADATA(aifactory:name)%"'
    counts = [config["data"][f"listeners{suffix}.json"].count(line) for suffix in ("", "-tls", "-keys", "-keys-tls")]
    assert counts == [0, 0, 3, 3]


def test_the_address_tells_whether_it_is_encrypted() -> None:
    world = starting()
    world.edit(gateway=WALLED)
    world.settle()
    assert world.status.url == "https://chat.ns.svc:9000/v1"
    plain, walled = (traffic.service(pool(gateway=spec), openai=True, gateway=True) for spec in (ENVOY, WALLED))
    protocols = [[port["appProtocol"] for port in body["spec"]["ports"]] for body in (plain, walled)]
    assert protocols == [["http", "kubernetes.io/h2c", "http"], ["https"] * 3]
    direct = traffic.service(pool(gateway=WALLED), openai=False)
    assert [port["appProtocol"] for port in direct["spec"]["ports"]] == ["http", "kubernetes.io/h2c"]


def test_a_gateway_is_in_place_when_no_proxy_is_left_without_the_secrets() -> None:
    world = ready()
    world.edit(gateway=WALLED)
    world.settle()
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert told(world)[:2] == ("Starting", ("False", "GatewayNotReady")), "what was asked before goes on"
    assert message(world.status).endswith(
        "2 of 2 pods of its gateway are ready, and not all of them have the Secrets that spec.gateway names: requests "
        "pass as before"
    )
    assert conditions(world.status)["Available"] == ("True", "Serving")
    missing = 'MountVolume.SetUp failed for volume "aifactory-keys" : secret "chat-keys" not found'
    world.proxies(2, made_with="", waiting=1, waiting_reason="FailedMount", waiting_message=missing)
    assert conditions(world.status)["Stalled"] == ("True", "VolumeNotMounted")
    assert message(world.status).endswith(
        f"pod gateway-2: {missing}; check that the Secret, ConfigMap or claim exists and has what docs/gateway.md says"
    )
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    world.edit(gateway={**WALLED, "apiKeys": {"secretRef": {"name": "others"}}})
    world.settle()
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_a_proxy_that_is_going_or_not_there_yet_keeps_nobody_waiting() -> None:
    owner = {"gateway": WALLED}
    now = gateway.secrets(pool(**owner))
    assert now.startswith("keys-tls-")
    view = GatewayView(deployment=DONE, ready=2, routed=True)
    old = {"terminating": ServingPodView("old", "", ready=True, terminating=True), "none": ServingPodView("old", "")}
    for pod in (*old.values(), ServingPodView("new", now, ready=True)):
        assert gateway.is_in_place(seen(replace(view, pods=(pod,)), **owner)), pod
    assert not gateway.is_in_place(seen(replace(view, pods=(ServingPodView("old", "", ready=True),)), **owner))


def test_a_new_pool_is_ready_when_its_gateway_is() -> None:
    world = starting()
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert conditions(world.status)["Available"] == ("False", "GatewayNotReady")
    assert message(world.status, ConditionType.RECONCILING) == (
        "tiny-v1: 2 of 2 pods have it loaded; 0 of 2 pods of its gateway are ready"
    )
    world.proxies(1)
    assert conditions(world.status)["Available"] == ("True", "Serving")
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert world.status.phase == "Starting", "it answers, and what has yet to come is missing from nobody"
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    assert world.status.url == "http://chat.ns.svc:9000/v1"
    assert all(pod.told == "" for pod in world.gateway.pods), "they were made with the files that there are"


def told(world: World) -> tuple[str, tuple[str, str], str]:
    """The phase, and the condition Degraded with its message."""
    return world.status.phase, conditions(world.status)["Degraded"], message(world.status, ConditionType.DEGRADED)


def test_what_starts_is_not_degraded_and_what_is_lost_is() -> None:
    world = starting()
    assert told(world) == ("Starting", ("False", "GatewayNotReady"), "")
    world.proxies(2)
    assert told(world) == ("Serving", ("False", "Serving"), "")
    world.proxies(1, waiting=1)
    lost = "tiny-v1: 2 of 2 pods have it loaded; 1 of 2 pods of its gateway are ready"
    assert told(world) == ("Degraded", ("True", "GatewayNotReady"), lost)
    assert conditions(world.status)["Reconciling"] == ("True", "GatewayNotReady")
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    world.proxies(2)
    assert told(world) == ("Serving", ("False", "Serving"), "")


def test_a_gateway_that_is_new_to_a_pool_degrades_nothing_before_requests_are_led_there() -> None:
    world = serving(1)
    world.edit(gateway=ENVOY)
    world.settle()
    assert told(world) == ("Starting", ("False", "GatewayNotReady"), "")
    world.proxies(2)
    assert told(world) == ("Serving", ("False", "Serving"), "")


def test_while_pods_start_it_is_they_that_are_told() -> None:
    world = World(pool(gateway=ENVOY))
    world.publish(1)
    world.settle()
    assert conditions(world.status)["Reconciling"] == ("True", "Starting")
    assert message(world.status) == "tiny-v1: 0 of 2 pods have it loaded"


def test_a_gateway_that_goes_is_told_with_what_is_done() -> None:
    world = ready()
    world.edit(gateway={"mode": "None"})
    world.step()
    assert message(world.status) == "tiny-v1: 2 of 2 pods have it loaded; Service chat is led to them"
    assert told(world) == ("Starting", ("False", "GatewayNotReady"), "")


def test_a_version_takes_all_requests_while_a_proxy_is_missing() -> None:
    world = ready(rollout={"strategy": "Surge"})
    world.publish(2)
    world.settle()
    world.proxies(1, waiting=1)
    world.roll_out()
    assert world.status.version == "2"
    assert told(world)[:2] == ("Degraded", ("True", "GatewayNotReady"))
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert message(world.status).endswith("; 1 of 2 pods of its gateway are ready")


def test_a_pool_of_no_pods_is_ready_when_its_gateway_is() -> None:
    world = ready()
    world.edit(replicas=0)
    world.settle()
    assert conditions(world.status)["Ready"] == ("True", "ScaledToZero")
    assert conditions(world.status)["Available"] == ("False", "ScaledToZero")
    world.proxies(0)
    assert conditions(world.status)["Ready"] == ("False", "ScaledToZero")
    assert conditions(world.status)["Reconciling"] == ("True", "ScaledToZero")
    assert conditions(world.status)["Available"] == ("False", "ScaledToZero")


def test_a_pool_that_waits_for_its_model_has_no_proxies_yet() -> None:
    world = World(pool(gateway=ENVOY))
    world.settle()
    assert world.service is not None
    assert world.gateway.routed
    assert world.gateway.deployment is None
    world.publish(1)
    world.roll_out()
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_the_service_of_a_pool_that_serves_leads_there_when_a_proxy_answers() -> None:
    world = serving(1)
    world.edit(gateway=ENVOY)
    world.settle()
    assert not world.gateway.routed
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    assert conditions(world.status)["Available"] == ("True", "Serving")
    world.proxies(1)
    assert world.gateway.routed
    world.proxies(0, waiting=2)
    assert world.gateway.routed, "it came there for good"
    assert conditions(world.status)["Available"] == ("False", "GatewayNotReady")
    assert conditions(world.status)["Degraded"] == ("True", "GatewayNotReady")


def test_a_gateway_that_nobody_wants_goes_after_the_service_leads_elsewhere() -> None:
    world = ready()
    world.edit(gateway={"mode": "None"})
    decision = world.step()
    assert [(type(write).__name__, write.kind, write.name) for write in decision.writes] == [
        ("Apply", "Service", "chat")
    ]
    assert conditions(world.status)["Ready"] == ("False", "GatewayNotReady")
    world.settle()
    view = world.gateway
    assert (view.deployment, view.config, view.budget, view.services) == (None, None, None, ())
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_what_keeps_proxies_away_is_told() -> None:
    world = starting()
    world.proxies(1, waiting=1, waiting_reason="ImagePullBackOff", waiting_message="no such image")
    assert conditions(world.status)["Stalled"] == ("True", "ImagePullFailed")
    assert "1 of 2 pods of its gateway are ready; pod gateway-1: no such image; check" in message(world.status)
    world.proxies(1, waiting=1, unschedulable="0/3 nodes are available")
    assert conditions(world.status)["Reconciling"] == ("True", "Unschedulable")
    assert message(world.status).endswith(
        "pod gateway-1 has no node: 0/3 nodes are available; "
        "make room for it, or go without a gateway: spec.gateway.mode None"
    )
    world.proxies(2)
    assert conditions(world.status)["Ready"] == ("True", "Serving")


@pytest.mark.parametrize(
    ("made", "refusal", "reason", "words", "waits"),
    [
        pytest.param(
            {},
            "pods is forbidden: exceeded quota: q",
            "QuotaExceeded",
            "no pod of Deployment chat-gateway can be made: pods is forbidden: exceeded quota: q; make room for it, or "
            "go without a gateway: spec.gateway.mode None",
            True,
            id="a quota",
        ),
        pytest.param(
            {},
            "denied by a webhook",
            "PodRejected",
            "no pod of Deployment chat-gateway can be made: denied by a webhook; make room for it, or go without a "
            "gateway: spec.gateway.mode None",
            False,
            id="a webhook",
        ),
        pytest.param(
            {"crash": Crash("envoy", 1, "Error", "", 3)},
            "",
            "CrashLoopBackOff",
            "read more with kubectl -n ns logs p -c envoy --previous",
            False,
            id="it crashes",
        ),
        pytest.param(
            {"crash": Crash("envoy", 137, "OOMKilled", "", 3)},
            "",
            "CrashLoopBackOff",
            "a LimitRange of the namespace limits its memory, or its node has too little: make room for it, or go "
            "without a gateway: spec.gateway.mode None",
            False,
            id="it has too little memory",
        ),
        pytest.param(
            {"refused_by_node": "OutOfcpu", "node": "n-1"},
            "",
            "GatewayNotReady",
            "node n-1 does not run pod p: OutOfcpu; another one is made",
            True,
            id="a node that is full",
        ),
        pytest.param({}, "", None, "", False, id="it starts"),
        pytest.param({"ready": True, "crash": Crash("envoy", 1, "Error", "", 3)}, "", None, "", False, id="it is back"),
        pytest.param({"terminating": True, "refused_by_node": "x"}, "", None, "", False, id="it ends"),
    ],
)
def test_what_keeps_a_proxy_away(made: Any, refusal: str, reason: str | None, words: str, waits: bool) -> None:
    child = Applied("chat-gateway", "uid")
    pods = (ServingPodView("p", "", **made),)
    view = GatewayView(deployment=child, refusal=refusal, pods=pods)
    found = of_gateway(Observed(pool(gateway=ENVOY), SETTINGS, gateway=view))
    if reason is None:
        assert found is None
        return
    assert found is not None
    assert (str(found.reason), found.waits) == (reason, waits)
    assert found.message == words or (reason == "CrashLoopBackOff" and found.message.endswith(f"; {words}"))


def test_one_proxy_needs_no_budget() -> None:
    world = World(pool(gateway={"mode": "Envoy", "replicas": 1}))
    world.publish(1)
    world.roll_out()
    assert world.gateway.budget is None
    world.proxies(1)
    assert conditions(world.status)["Ready"] == ("True", "Serving")
    world.edit(gateway={"mode": "Envoy", "replicas": 3})
    world.settle()
    assert world.gateway.budget is not None


def test_all_ready_pods_get_requests_in_a_surge_and_each_version_can_be_asked_for() -> None:
    world = ready(rollout={"strategy": "Surge"})
    assert leads(world)["cluster"] == "pods-http"
    one = world.revision(1)
    assert pinned(world) == {"1": f"{one}-http"}
    assert len(world.gateway.services) == 2
    world.publish(2)
    world.settle()
    two = world.revision(2)
    assert leads(world)["cluster"] == "pods-http", "the same as before: no file decides who serves"
    assert pinned(world) == {"1": f"{one}-http", "2": f"{two}-http"}
    assert len(world.gateway.services) == 3
    assert all(pod.told == world.gateway.files for pod in world.gateway.pods)
    world.roll_out()
    assert pinned(world) == {"2": f"{two}-http"}
    assert len(world.gateway.services) == 2
    assert conditions(world.status)["Ready"] == ("True", "Serving")


def test_weights_are_those_of_the_canary() -> None:
    steps = [{"weight": 5}, {"pause": {}}]
    world = ready(rollout={"steps": steps})
    world.publish(2)
    world.roll_out()
    one, two = world.revision(1), world.revision(2)
    expected = [{"name": f"{one}-http", "weight": 95}, {"name": f"{two}-http", "weight": 5}]
    assert leads(world)["weighted_clusters"]["clusters"] == expected
    assert leads(world, "grpc")["weighted_clusters"]["clusters"][1] == {"name": f"{two}-grpc", "weight": 5}
    assert world.status.rollout is not None
    assert world.status.rollout.actual_weight == 5, "one of three pods"
    ask(world, "abort")
    assert leads(world)["weighted_clusters"]["clusters"] == [{"name": f"{one}-http", "weight": 100}]


def test_pods_that_change_over_answer_to_both_numbers() -> None:
    world = ready()
    world.publish(2, size_bytes=1000)
    world.publish(1, size_bytes=1000)
    for deployment in world.deployments.values():
        deployment.room = 10**9
    world.settle()
    assert world.status.rollout is not None
    assert world.status.rollout.strategy == "HotSwap"
    (pods,) = (view.revision for view in world.deployments.values())
    assert pinned(world) == {"1": f"{pods}-http", "2": f"{pods}-http"}
    world.change_over(2)
    assert pinned(world) == {"2": f"{pods}-http"}
    assert all(pod.told == world.gateway.files for pod in world.gateway.pods)


def test_a_proxy_is_told_of_new_files_once_they_are_there() -> None:
    world = ready(rollout={"strategy": "Surge"})
    first = world.gateway.files
    world.publish(2)
    decision = world.step()
    while world.gateway.files == first:
        assert not [write for write in decision.writes if write.name.startswith("gateway-")]
        decision = world.step()
    world.settle()
    assert [pod.told for pod in world.gateway.pods] == [world.gateway.files] * 2


def test_requests_are_logged_where_that_is_asked_for() -> None:
    world = ready()
    assert "access_log" not in world.files["listeners.json"]
    world.edit(gateway={**ENVOY, "accessLog": True})
    world.settle()
    assert world.files["listeners.json"].count('"access_log"') == 3, "of each port but the one about the proxy itself"


def test_a_set_of_pods_has_a_name_that_a_service_may_have() -> None:
    name = "p" * 52
    longest = gateway.set_host(
        pool().model_copy(update={"metadata": pool().metadata.model_copy(update={"name": name})}),
        "v2-12345678-12345678-b",
    )
    assert len(longest) <= 63
    assert len(gateway.name(name)) <= 63


def test_files_differ_where_their_hash_does() -> None:
    """The page that tells by which files a proxy works is one of them."""
    everybody = envoy.Pods("pods", "chat-pods")
    one, other = (envoy.Routes("chat", "tiny", True, everybody, (envoy.Pods("a", "a", (n,)),)) for n in (1, 2))
    assert envoy.files(one) == envoy.files(one)
    assert envoy.files(one)["routes-status.json"] != envoy.files(other)["routes-status.json"]


# --- Piece by piece ---

DONE = Applied("chat-gateway", "uid", "stamp.")
SET = RevisionView(Applied("chat-v2-0-1", "uid"), "v2-0-1", 2, ready=2, model_version="tiny-v1")


def seen(view: GatewayView, *revisions: RevisionView, **spec: Any) -> Observed:
    return Observed(
        pool(**{"gateway": ENVOY, **spec}), SETTINGS, versions=(version(1),), revisions=revisions, gateway=view
    )


def test_a_line_of_the_access_log() -> None:
    world = ready()
    world.edit(gateway={**ENVOY, "accessLog": True})
    world.settle()
    (first, *_) = json.loads(world.files["listeners.json"])["resources"]
    manager = first["filter_chains"][0]["filters"][0]["typed_config"]
    assert_golden(GOLDEN / "gateway-access-log.yaml", manager["access_log"])


def test_versions_are_asked_for_in_order_and_the_others_are_told_which_there_are() -> None:
    def table(*sets: envoy.Pods) -> tuple[list[str], str]:
        files = envoy.files(envoy.Routes("chat", "tiny", False, envoy.Pods("pods", "chat-pods"), sets))
        found = json.loads(files["routes-http.json"])["resources"][0]["virtual_hosts"][0]["routes"]
        (unknown,) = (route["direct_response"] for route in found if "direct_response" in route)
        headers = (header for route in found for header in route["match"].get("headers", ()))
        exact = [header["string_match"]["exact"] for header in headers if "exact" in header.get("string_match", {})]
        return exact, unknown["body"]["inline_string"]

    words = "no pod of pool chat serves the version that header x-aifactory-version names; served: "
    assert table() == ([], f"{words}none")
    sets = envoy.Pods("a", "a", (10, 2)), envoy.Pods("b", "b", (1,))
    assert table(*sets) == (["1", "2", "10"], f"{words}1, 2, 10")


def test_requests_take_the_way_through_proxies_when_all_of_it_is_there() -> None:
    whole = GatewayView(deployment=DONE, ready=2, routed=True)
    assert gateway.is_in_place(seen(whole))
    for part in ({"deployment": None}, {"ready": 1}, {"routed": False}):
        assert not gateway.is_in_place(seen(replace(whole, **part)))  # type: ignore[arg-type] # by name


def test_proxies_wait_for_the_first_pods_and_stay_when_there_are_none() -> None:
    assert gateway.writes(seen(GatewayView())) == ()
    assert gateway.writes(seen(GatewayView(), SET))
    assert gateway.writes(seen(GatewayView(config=DONE)))
    assert gateway.writes(seen(GatewayView(deployment=DONE)))


def test_a_budget_that_is_there_is_kept_as_it_should_be() -> None:
    one = {"gateway": {**ENVOY, "replicas": 1}}
    for budget, kept in ((None, 0), (DONE, 1)):
        observed = replace(seen(GatewayView(budget=budget), SET), pool=pool(**one))
        assert [write.kind for write in gateway.writes(observed)].count("PodDisruptionBudget") == kept


def test_all_of_a_gateway_goes_and_services_of_sets_that_are_gone() -> None:
    other = Applied("chat-12345678", "other", "stamp.")
    view = GatewayView(deployment=DONE, config=DONE, budget=DONE, services=(other,))
    unwanted = replace(seen(view), pool=pool())
    assert [(type(write).__name__, write.kind, write.name) for write in gateway.writes(unwanted)] == [
        ("Delete", "Deployment", "chat-gateway"),
        ("Delete", "ConfigMap", "chat-gateway"),
        ("Delete", "PodDisruptionBudget", "chat-gateway"),
        ("Delete", "Service", "chat-12345678"),
    ]
    gone = [(write.kind, write.name) for write in gateway.writes(seen(view, SET)) if isinstance(write, Delete)]
    assert gone == [("Service", "chat-12345678")]


@pytest.mark.parametrize(
    ("first", "files", "pod", "told"),
    [
        pytest.param("old", "now", {}, True, id="it was made with others"),
        pytest.param("now", "now", {}, False, id="it was made with these"),
        pytest.param("now", "now", {"told": "old"}, True, id="it was told of others since"),
        pytest.param("old", "now", {"told": "now"}, False, id="it was told"),
        pytest.param("old", "old", {}, False, id="they are not there yet"),
        pytest.param("old", "now", {"terminating": True}, False, id="it ends"),
    ],
)
def test_which_proxies_are_told_of_files(first: str, files: str, pod: dict[str, Any], told: bool) -> None:
    bare = seen(GatewayView(), SET)
    now, _ = gateway.config_map(bare.pool, gateway.routes(bare))
    named = {name: now if value == "now" else value for name, value in {"first": first, "files": files, **pod}.items()}
    made = ServingPodView("gateway-0", "", ready=True, **{name: named[name] for name in pod})  # type: ignore[arg-type]
    view = GatewayView(deployment=DONE, first=named["first"], files=named["files"], pods=(made,))
    assert [write.name for write in gateway.writes(seen(view, SET)) if write.kind == "Pod"] == ["gateway-0"] * told


def test_where_a_gateway_leads_to() -> None:
    assert [gateway.routes(seen(GatewayView(), SET, replicas=count)).awaited for count in (0, 1, 2)] == [
        False,
        True,
        True,
    ]
    change = {"phase": "Progressing", "strategy": "Canary", "revision": "b", "weight": 50}
    status = {"stable": {"revision": "a"}, "candidate": {"revision": "b"}, "rollout": change}
    sets = [replace(SET, revision=name, ready=2) for name in ("a", "b", "c")]
    found = gateway.routes(seen(GatewayView(), *sets, replicas=4, status=status))
    assert [(each.name, each.weight, each.versions) for each in found.sets] == [
        ("a", 50, (1,)),
        ("b", 50, (1,)),
        ("c", 0, (1,)),
    ]
    both = {
        "stable": {"revision": "a", "version": 8},
        "candidate": {"revision": "b", "version": 1, "deployment": "chat-a"},
    }
    (one,) = gateway.routes(seen(GatewayView(), sets[0], status=both)).sets
    assert one.versions == (1, 8)


SEVERAL = {"models": [{"name": name, "track": "Latest"} for name in ("gpt", "bert", "t5")]}


def named(*versions: str) -> list[dict[str, Any]]:
    found = (each.split("@") for each in versions)
    return [{"name": name, "version": int(number), "modelVersion": f"{name}-v{number}"} for name, number in found]


def test_of_several_models_pods_are_led_to_by_each_and_asked_for_one_that_stays() -> None:
    status = {
        "stable": {"revision": "a", "models": named("t5@1", "old@3", "bert@1", "gpt@1")},
        "candidate": {"revision": "b", "deployment": "chat-a", "models": named("t5@1", "gpt@2", "bert@1")},
    }
    found = gateway.routes(seen(GatewayView(), replace(SET, revision="a"), status=status, **SEVERAL))
    assert [each.versions for each in found.sets] == [("bert@1", "gpt@1", "gpt@2", "old@3", "t5@1")]
    assert found.model == "gpt"
    new = {"stable": {"revision": "a", "models": named("old@3", "t5@1")}}
    assert gateway.routes(seen(GatewayView(), status=new, **SEVERAL)).model == "t5"
    one = {"stable": {"revision": "a", "modelVersion": "tiny-v1"}}
    found = gateway.routes(seen(GatewayView(), replace(SET, revision="a"), status=one, **SEVERAL))
    assert ([each.versions for each in found.sets], found.model) == ([()], "gpt")
    assert gateway.routes(seen(GatewayView(), **SEVERAL)).model == "gpt"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({}, True, id="all of them"),
        pytest.param({"files": "old"}, False, id="not the ConfigMap"),
        pytest.param({"first": "old"}, False, id="not one that was made with others"),
        pytest.param({"pods": ("now", "old")}, False, id="not one of two"),
        pytest.param({"pods": ("now", "now"), "first": "old"}, True, id="they were told since"),
        pytest.param({"pods": ("now", "old"), "terminating": True}, True, id="one that ends"),
        pytest.param({"files": "old", "routed": False}, True, id="no request goes through them"),
        pytest.param({"files": "old", "mode": "None"}, True, id="they go"),
    ],
)
def test_whether_proxies_lead_to_what_they_shall(change: dict[str, Any], *, told: bool) -> None:
    bare = seen(GatewayView(), SET)
    now, _ = gateway.config_map(bare.pool, gateway.routes(bare))
    named = {"now": now, "old": "old", "": ""}
    pods = tuple(
        ServingPodView(f"gateway-{each}", "", ready=True, told=named[each], terminating=each == "old" and gone)
        for gone in [change.get("terminating", False)]
        for each in change.get("pods", ("now", ""))
    )
    view = GatewayView(
        deployment=DONE,
        first=named[change.get("first", "now")],
        files=named[change.get("files", "now")],
        pods=pods,
        routed=change.get("routed", True),
    )
    assert gateway.is_told(seen(view, SET, gateway={"mode": change.get("mode", "Envoy")})) is told


def test_requests_stick_at_the_port_of_openai_alone() -> None:
    spec = {**WALLED, "stickiness": {"promptBytes": 2048}}
    observed = seen(GatewayView(), SET, gateway=spec)
    plain, sticky = (
        gateway.config_map(owner, replace(gateway.routes(observed), prompt_bytes=given))[1]["data"]
        for owner, given in ((observed.pool, None), (observed.pool, 2048))
    )
    assert gateway.routes(observed).prompt_bytes == 2048
    different = {name for name in sticky if plain[name] != sticky[name]}
    listeners = {f"listeners{each.suffix}.json" for each in envoy.Walls(keys=True, tls=True).lower}
    assert different == {"clusters.json", "routes-openai.json", "routes-status.json", *listeners}
    policies = {
        each["name"]: (each["lb_policy"], each["common_lb_config"].get("consistent_hashing_lb_config"))
        for each in json.loads(sticky["clusters.json"])["resources"]
    }
    bound = {"hash_balance_factor": 125}
    assert {door: found for name, found in policies.items() if (door := name.rpartition("-")[2])} == {
        "http": ("LEAST_REQUEST", None),
        "grpc": ("LEAST_REQUEST", None),
        "openai": ("RING_HASH", bound),
    }
    (table,) = json.loads(sticky["routes-openai.json"])["resources"]
    led = [each["route"] for each in table["virtual_hosts"][0]["routes"] if "route" in each]
    assert [each["hash_policy"] for each in led] == [[{"header": {"header_name": "x-aifactory-session"}}]] * len(led)
    filters = {
        each["name"]: [
            found["name"]
            for found in each["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
            if found["name"] == "aifactory.stickiness"
        ]
        for each in json.loads(sticky["listeners-keys.json"])["resources"]
    }
    assert filters == {"http": [], "grpc": [], "openai": ["aifactory.stickiness"], "status": []}
    assert "first + 2048," in sticky["listeners.json"]
