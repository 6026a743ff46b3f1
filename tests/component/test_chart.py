"""What each value of the chart does to what Helm renders, what Helm refuses, and what it says after an install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aifactory.app import domains
from aifactory.app.domains import DOMAINS
from aifactory.app.options import parse
from aifactory.app.wiring import rbac_rules
from aifactory.engine.taskpods import TaskPods
from localcluster import addons
from tests.component.conftest import free_port
from tests.support.chart import CHART, SYSTEM, Manifests, container, helm, pod, rendered
from tests.support.kubectl import ROOT, Json, Kubectl, binary
from tests.support.waiting import wait_for

DIGEST = "sha256:" + "0" * 64

FULL: Json = {
    "images": {
        "registry": "registry.example.com/factory",
        "tag": "1.2.3",
        "operator": {"digest": DIGEST},
        "agent": {"repository": "loader"},
        "server": {
            "registry": "other.example.com:5000/a",
            "repository": "triton/server",
            "tag": "r1",
            "digest": DIGEST,
        },
        "gateway": {"registry": "docker.io/envoyproxy", "repository": "envoy", "tag": "v1.40.0"},
        "pullPolicy": "Always",
        "pullSecrets": ["registry"],
    },
    "replicas": 2,
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "workers": 7,
    "leaseNamespace": "leases",
    "modelClaim": {"size": "1Ti", "storageClassName": "models"},
    "inputClaim": {"size": "2Ti", "storageClassName": "inputs"},
    "hub": {"endpoint": "https://hub.example.com"},
    "taskPods": {
        "defaults": {"imagePullSecrets": [{"name": "registry"}], "tolerations": [{"operator": "Exists"}]},
        "namespaces": {"team-a": {"priorityClassName": "low", "validation": {"enabled": False}}},
    },
    "maxConcurrentRollouts": 9,
    "crds": {"install": False},
    "deletionGuard": False,
    "authorPolicy": False,
    "userRoles": False,
    "commonLabels": {"team": "platform"},
    "podLabels": {"cost": "17"},
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
    "deploymentAnnotations": {"reload": "yes"},
    "serviceAnnotations": {"scrape": "yes"},
    "serviceAccountAnnotations": {"role": "none"},
    "extraEnv": [{"name": "A", "value": "b"}],
    "priorityClassName": "system-cluster-critical",
    "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    "securityContext": {"readOnlyRootFilesystem": False},
    "operatorNetworkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "apiServerPorts": [16443],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}],
    },
    "networkPolicies": {"enabled": True, "metricsFrom": [{"ipBlock": {"cidr": "10.0.0.2/32"}}]},
    "gpuHourPrice": "2.49",
    "dashboards": {"enabled": True, "labels": {"grafana_dashboard": "yes"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "main"}, "runbookUrl": "https://example.com/docs"},
    "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"prometheus": "main"}},
    "logLevel": "DEBUG",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
}


# What a value shows in: what the defaults make of it, and what FULL does.
Case = tuple[Callable[[Manifests], Any], Any, Any]


def argument(name: str) -> Callable[[Manifests], Any]:
    """What the operator is told by an option."""

    def told(made: Manifests) -> str | None:
        given = [entry.partition("=")[2] for entry in container(made)["args"] if entry.startswith(f"--{name}=")]
        return given[0] if given else None

    return told


def at(kind: str, *path: str | int, name: str = "aifactory-operator") -> Callable[[Manifests], Any]:
    """A field of an object; None when there is no such object or field."""

    def found(made: Manifests) -> Any:
        node: Any = made.get((kind, name))
        for part in path:
            if node is None:
                return None
            node = node[part] if isinstance(part, int) else node.get(part)
        return node

    return found


def in_pod(*path: str | int) -> Callable[[Manifests], Any]:
    return at("Deployment", "spec", "template", *path)


def in_container(*path: str | int) -> Callable[[Manifests], Any]:
    return in_pod("spec", "containers", 0, *path)


def task_pods(made: Manifests) -> Any:
    return yaml.safe_load(made["ConfigMap", "aifactory-operator"]["data"]["task-pods.yaml"])


def network(made: Manifests) -> Any:
    return yaml.safe_load(made["ConfigMap", "aifactory-operator"]["data"]["network.yaml"])


def there(kind: str, name: str) -> Callable[[Manifests], bool]:
    return lambda made: (kind, name) in made


OWN = {"app.kubernetes.io/name": "aifactory-operator", "app.kubernetes.io/instance": "aifactory"}
USER = {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
RESTRICTED = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
AGENT: Case = (argument("agent-image"), "aifactory/agent:0.1.0", "registry.example.com/factory/loader:1.2.3")
CASES: dict[str, Case] = {
    "images.registry": AGENT,
    "images.tag": AGENT,
    "images.operator": (
        in_container("image"),
        "aifactory/operator:0.1.0",
        f"registry.example.com/factory/operator@{DIGEST}",
    ),
    "images.agent": AGENT,
    "images.server": (
        argument("server-image"),
        "aifactory/server:0.1.0",
        f"other.example.com:5000/a/triton/server:r1@{DIGEST}",
    ),
    "images.gateway": (argument("gateway-image"), "aifactory/gateway:0.1.0", "docker.io/envoyproxy/envoy:v1.40.0"),
    "images.pullPolicy": (in_container("imagePullPolicy"), "IfNotPresent", "Always"),
    "images.pullSecrets": (in_pod("spec", "imagePullSecrets"), None, [{"name": "registry"}]),
    # One alone has no budget, which would hold up every drain.
    "replicas": (
        lambda made: (
            at("Deployment", "spec", "replicas")(made),
            ("PodDisruptionBudget", "aifactory-operator") in made,
        ),
        (1, False),
        (2, True),
    ),
    "resources.requests": (
        in_container("resources", "requests"),
        {"cpu": "100m", "memory": "128Mi"},
        {"cpu": "1", "memory": "128Mi"},
    ),
    "resources.limits": (in_container("resources", "limits"), {"memory": "512Mi"}, {"memory": "1Gi"}),
    "workers": (argument("workers"), "128", "7"),
    "leaseNamespace": (at("Role", "metadata", "namespace", name="aifactory-operator-lease"), "kube-system", "leases"),
    "modelClaim.size": (argument("model-claim-size"), "10Gi", "1Ti"),
    "modelClaim.storageClassName": (argument("model-claim-storage-class"), None, "models"),
    "inputClaim.size": (argument("input-claim-size"), "50Gi", "2Ti"),
    "inputClaim.storageClassName": (argument("input-claim-storage-class"), None, "inputs"),
    "hub.endpoint": (argument("hub-endpoint"), None, "https://hub.example.com"),
    "taskPods.defaults": (lambda made: task_pods(made)["defaults"], {}, FULL["taskPods"]["defaults"]),
    "taskPods.namespaces": (lambda made: task_pods(made)["namespaces"], {}, FULL["taskPods"]["namespaces"]),
    "maxConcurrentRollouts": (argument("max-concurrent-rollouts"), "2", "9"),
    "crds.install": (there("CustomResourceDefinition", "trainingjobs.aifactory.dev"), True, False),
    "deletionGuard": (there("ValidatingAdmissionPolicy", "aifactory-modelversion-in-use"), True, False),
    "authorPolicy": (there("ValidatingAdmissionPolicy", "aifactory-template-author"), True, False),
    "userRoles": (there("ClusterRole", "aifactory-edit"), True, False),
    "commonLabels": (at("Service", "metadata", "labels", "team"), None, "platform"),
    "podLabels": (in_pod("metadata", "labels", "cost"), None, "17"),
    "podAnnotations": (in_pod("metadata", "annotations", "sidecar.istio.io/inject"), None, "false"),
    "deploymentAnnotations": (at("Deployment", "metadata", "annotations"), None, {"reload": "yes"}),
    "serviceAnnotations": (at("Service", "metadata", "annotations"), None, {"scrape": "yes"}),
    "serviceAccountAnnotations": (at("ServiceAccount", "metadata", "annotations"), None, {"role": "none"}),
    "extraEnv": (
        lambda made: [entry for entry in container(made)["env"] if not entry["name"].startswith("POD_")],
        [],
        [{"name": "A", "value": "b"}],
    ),
    "priorityClassName": (in_pod("spec", "priorityClassName"), None, "system-cluster-critical"),
    # No user at all: the cluster's own choice.
    "podSecurityContext": (in_pod("spec", "securityContext"), RESTRICTED | USER, RESTRICTED),
    "securityContext": (in_container("securityContext", "readOnlyRootFilesystem"), True, False),
    "operatorNetworkPolicy.enabled": (there("NetworkPolicy", "aifactory-operator"), False, True),
    "operatorNetworkPolicy.metricsFrom": (
        at("NetworkPolicy", "spec", "ingress", 1, "from", 1),
        None,
        FULL["operatorNetworkPolicy"]["metricsFrom"][0],
    ),
    "operatorNetworkPolicy.apiServerPorts": (
        at("NetworkPolicy", "spec", "egress", 1, "ports"),
        None,
        [{"port": 16443, "protocol": "TCP"}],
    ),
    "operatorNetworkPolicy.extraEgress": (
        at("NetworkPolicy", "spec", "egress", 3),
        None,
        FULL["operatorNetworkPolicy"]["extraEgress"][0],
    ),
    "networkPolicies.enabled": (lambda made: network(made)["enabled"], False, True),
    "networkPolicies.metricsFrom": (
        lambda made: network(made)["metricsFrom"],
        [],
        FULL["networkPolicies"]["metricsFrom"],
    ),
    "dashboards.enabled": (there("ConfigMap", "aifactory-dashboard-operator"), False, True),
    "dashboards.labels": (
        at("ConfigMap", "metadata", "labels", "grafana_dashboard", name="aifactory-dashboard-operator"),
        None,
        "yes",
    ),
    "gpuHourPrice": (argument("gpu-hour-price"), None, "2.49"),
    "prometheusRule.enabled": (there("PrometheusRule", "aifactory-operator"), False, True),
    "prometheusRule.labels": (at("PrometheusRule", "metadata", "labels", "release"), None, "main"),
    "prometheusRule.runbookUrl": (
        at("PrometheusRule", "spec", "groups", 0, "rules", 0, "annotations", "runbook_url"),
        None,
        "https://example.com/docs/reasons.md#{{ $labels.reason | toLower }}",
    ),
    "serviceMonitor.enabled": (there("ServiceMonitor", "aifactory-operator"), False, True),
    "serviceMonitor.interval": (at("ServiceMonitor", "spec", "endpoints", 0, "interval"), None, "15s"),
    "serviceMonitor.labels": (at("ServiceMonitor", "metadata", "labels", "prometheus"), None, "main"),
    "logLevel": (argument("log-level"), "INFO", "DEBUG"),
    "nodeSelector": (in_pod("spec", "nodeSelector"), None, FULL["nodeSelector"]),
    "tolerations": (in_pod("spec", "tolerations"), None, FULL["tolerations"]),
    "affinity": (in_pod("spec", "affinity"), None, FULL["affinity"]),
    # Without a selector of its own a constraint is about the operator's pods.
    "topologySpreadConstraints": (
        in_pod("spec", "topologySpreadConstraints"),
        None,
        [{**FULL["topologySpreadConstraints"][0], "labelSelector": {"matchLabels": OWN}}],
    ),
}
ALONE = {"watchNamespaces", "fullnameOverride"}
"""Values that change the names of what is made: each has a test of its own."""


@pytest.mark.parametrize("value", CASES)
def test_a_value(value: str) -> None:
    look, usual, wanted = CASES[value]
    assert look(rendered({})) == usual
    assert look(rendered(FULL)) == wanted


def test_metrics_of_objects_keep_their_namespace() -> None:
    assert at("ServiceMonitor", "spec", "endpoints", 0, "honorLabels")(rendered(FULL)) is True


def test_every_value_has_a_test() -> None:
    def leaves(node: Json, above: str = "") -> set[str]:
        found: set[str] = set()
        for key, value in node.items():
            path = f"{above}{key}"
            deeper = isinstance(value, dict) and value and path not in CASES
            found |= leaves(value, f"{path}.") if deeper else {path}
        return found

    assert leaves(yaml.safe_load((CHART / "values.yaml").read_text())) == CASES.keys() | ALONE


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "everything set"])
def test_the_operator_can_read_what_it_is_told(values: Json, tmp_path: Path) -> None:
    made = rendered(values)
    for name, text in made["ConfigMap", "aifactory-operator"]["data"].items():
        (tmp_path / name).write_text(text)
    told = [entry.replace("=/etc/aifactory/", f"={tmp_path}/") for entry in container(made)["args"]]
    options = parse(DOMAINS, told)
    assert options.release == f"{SYSTEM}/aifactory"
    assert options.domains["task_pods"] == TaskPods.model_validate(values.get("taskPods", {}))
    for domain in domains.make(options):
        assert domain.settings.hub_endpoint == values.get("hub", {}).get("endpoint", "")


def test_each_namespace_that_is_watched_has_an_operator_with_rights_there_only() -> None:
    made = rendered({**FULL, "watchNamespaces": ["team-a", "team-b"]})
    assert not any(kind == "ClusterRole" and not name.endswith("-tokens") for kind, name in made)
    for space in ("team-a", "team-b"):
        name = f"aifactory-operator-{space}"
        deployment, labels = made["Deployment", name]["spec"], pod(made, name)["metadata"]["labels"]
        assert {f"--namespace={space}", f"--progress-url=http://{name}.{SYSTEM}.svc:8082"} <= set(
            container(made, name)["args"]
        )
        assert deployment["template"]["spec"]["serviceAccountName"] == name
        # Nobody else's pods: two Deployments with one selector would fight, and a Service would lead to both.
        for selector in (
            deployment["selector"]["matchLabels"],
            made["Service", name]["spec"]["selector"],
            made["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"],
            deployment["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        ):
            assert selector == {**OWN, "aifactory.dev/watches": space}
            assert selector.items() <= labels.items()
        assert (
            made["Role", name]["metadata"]["namespace"] == made["RoleBinding", name]["metadata"]["namespace"] == space
        )
        assert made["Role", name]["rules"] == rbac_rules(DOMAINS)
        lease = made["Role", f"{name}-lease"]
        assert lease["rules"][1]["resourceNames"] == [f"{space}.aifactory.dev"]
        bound = [entry for (kind, of), entry in made.items() if kind.endswith("RoleBinding") and of.startswith(name)]
        parts = {entry["metadata"]["name"].removeprefix(name) for entry in bound}
        assert parts == {"", "-tokens", "-lease", "-events"}
        assert {entry["subjects"][0]["name"] for entry in bound} == {name}
        assert f"--namespace={space}" in made["Pod", f"{name}-test"]["spec"]["containers"][0]["args"]
    assert ("Deployment", "aifactory-operator") not in made


def test_another_name() -> None:
    usual, other = rendered({"replicas": 2}), rendered({"replicas": 2, "fullnameOverride": "factory"}, release="r1")
    ours = {(kind, name) for kind, name in usual if kind != "CustomResourceDefinition"}
    theirs = {(kind, name) for kind, name in other if kind != "CustomResourceDefinition"}
    assert {(kind, name.replace("aifactory-", "factory-", 1)) for kind, name in ours} == theirs
    assert f"--release={SYSTEM}/r1" in container(other, "factory-operator")["args"]


def test_names_that_would_be_too_long_are_shortened_and_stay_different() -> None:
    spaces = ["team-" + "x" * 57 + end for end in "ab"]
    made = rendered({"watchNamespaces": spaces})
    names = [name for kind, name in made if kind == "Pod"]
    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)


def test_every_object_has_the_common_labels_and_no_two_releases_share_a_name() -> None:
    made = rendered({**FULL, "authorPolicy": True, "deletionGuard": True, "userRoles": True})
    assert {key: entry["metadata"]["labels"].get("team") for key, entry in made.items()} == dict.fromkeys(
        made, "platform"
    )
    assert pod(made)["metadata"]["labels"]["team"] == "platform"
    other = rendered({**FULL, "authorPolicy": True, "deletionGuard": True, "userRoles": True}, release="second")
    assert not made.keys() & other.keys()


def test_the_network_policy_knows_the_ports_of_the_operator() -> None:
    """The table in docs/install.md is what whoever writes policies goes by."""
    table = (ROOT / "docs/install.md").read_text().split("## Network")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in table.splitlines()
        if row.startswith("| operator")
    ]
    told = {int(port) for row in rows for port in row[2].split(", ") if port}
    spec = rendered(FULL)["NetworkPolicy", "aifactory-operator"]["spec"]
    assert {entry["port"] for entry in spec["egress"][2]["ports"]} == told
    named = {port["name"] for port in container(rendered(FULL))["ports"]}
    assert {entry["port"] for rule in spec["ingress"] for entry in rule["ports"]} == named
    assert spec["podSelector"]["matchLabels"].items() <= pod(rendered(FULL))["metadata"]["labels"].items()
    test = rendered(FULL)["Pod", "aifactory-operator-test"]["metadata"]["labels"]
    assert spec["ingress"][1]["from"][0]["podSelector"]["matchLabels"].items() <= test.items()


def test_the_monitor_finds_the_service() -> None:
    made = rendered(FULL)
    service = made["Service", "aifactory-operator"]
    monitor = made["ServiceMonitor", "aifactory-operator"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {entry["port"] for entry in monitor["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"images": {"servr": {}}}, "at '/images': additional properties 'servr' not allowed"),
        ({"images": {"server": {"name": "x"}}}, "at '/images/server': additional properties 'name' not allowed"),
        ({"images": {"server": "a/server:1"}}, "at '/images/server': got string, want object"),
        (
            {"taskPods": {"defaults": {"nodeSelecter": {}}}},
            "at '/taskPods/defaults': additional properties 'nodeSelecter'",
        ),
        ({"watchNamespace": "team-a"}, "additional properties 'watchNamespace' not allowed"),
        ({"logLevel": "debug"}, "at '/logLevel': value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
    ],
)
def test_helm_refuses_with_the_path(values: Json, words: str) -> None:
    done = helm("template", "aifactory", str(CHART), values=values)
    assert done.returncode != 0
    assert words in done.stderr


NOTES = {
    "defaults": (
        {},
        "acts in all namespaces.",
        [
            f"helm test aifactory --namespace {SYSTEM}",
            "kubectl apply --filename examples/one-node.yaml",
            "kubectl get aifactory",
        ],
    ),
    "a registry and namespaces": (
        {"images": {"registry": "r.example.com/f", "tag": "7"}, "watchNamespaces": ["team-a", "team-b"]},
        "acts in team-a, team-b.",
        [
            f"helm test aifactory --namespace {SYSTEM}",
            "sed 's#aifactory/trainer:0.1.0#r.example.com/f/trainer:7#' examples/one-node.yaml"
            " | kubectl apply --namespace team-a --filename -",
            "kubectl get aifactory --namespace team-a",
        ],
    ),
}


@pytest.mark.parametrize("case", NOTES)
def test_the_notes_name_the_next_three_commands(case: str) -> None:
    values, where, commands = NOTES[case]
    done = helm("install", "aifactory", str(CHART), f"--namespace={SYSTEM}", "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:\n")[1]
    assert where in notes
    assert [line.strip() for line in notes.splitlines() if line.startswith("  ")] == commands
    assert "CustomResourceDefinitions are not of this release" not in notes


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["default"]}], ids=["all namespaces", "one"])
def test_an_api_server_takes_it_all(kubectl: Kubectl, values: Json) -> None:
    """Every field is known, and every policy compiles."""
    every = {**FULL, "authorPolicy": True, "deletionGuard": True, "userRoles": True, "leaseNamespace": "kube-system"}
    made = rendered({**every, **values})
    known = [entry for (kind, _), entry in made.items() if kind not in ("ServiceMonitor", "PrometheusRule")]
    for entry in known:
        if entry["metadata"].get("namespace") == SYSTEM:
            entry["metadata"]["namespace"] = "default"
        if entry["kind"] == "Pod":
            entry["spec"]["serviceAccountName"] = "default"  # the operator's own is not there in a dry run
    kubectl.run(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(known)
    )


def test_every_image_is_listed_as_the_chart_comes() -> None:
    done = subprocess.run([sys.executable, "charts/images.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"aifactory/{name}:0.1.0" for name in ("agent", "gateway", "operator", "server")]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    port = free_port()
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (tmp_path / "registry.json").write_text(json.dumps(config))  # JSON is YAML
    command = [binary("registry"), "serve", str(tmp_path / "registry.json")]
    server = subprocess.Popen(command, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
    try:
        url = f"http://127.0.0.1:{port}/v2/"
        wait_for("the registry to answer", lambda: command_runs("curl", "-fsS", url), bool, seconds=20)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def command_runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def test_every_image_is_listed_with_its_digest(registry: str, tmp_path: Path) -> None:
    def listed(*more: str) -> subprocess.CompletedProcess[str]:
        own = [f"--set=images.registry={registry}/aifactory", "--digests", *more]
        command = [sys.executable, "charts/images.py", *own]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    names = ("agent", "gateway", "operator", "server")
    program, archive = tmp_path / "program", tmp_path / "image.tar"
    expected = []
    for name in names:
        image = f"{registry}/aifactory/{name}:0.1.0"
        program.write_text(name)
        archive.write_bytes(addons.image_archive(image, program))
        pushed = subprocess.run([binary("crane"), "push", str(archive), image], capture_output=True, text=True)
        assert pushed.returncode == 0, pushed.stderr
        expected.append(f"{image}@{pushed.stdout.strip().partition('@')[2]}")
    done = listed()
    assert done.stdout.splitlines() == expected, done.stderr
    assert "@sha256:" in expected[0]
    failed = listed("--set=images.agent.tag=unheard-of", "--set=images.server.tag=neither")
    assert failed.returncode != 0
    for name in ("agent:unheard-of", "server:neither"):
        assert f"{registry}/aifactory/{name}: " in failed.stderr


def test_every_image_is_listed(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(FULL))
    command = ["make", "--no-print-directory", "images-list", f"VALUES={values}", "MANIFESTS=examples/one-node.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "aifactory/trainer:0.1.0",
        "docker.io/envoyproxy/envoy:v1.40.0",
        f"other.example.com:5000/a/triton/server:r1@{DIGEST}",
        "registry.example.com/factory/loader:1.2.3",
        f"registry.example.com/factory/operator@{DIGEST}",
    ]
