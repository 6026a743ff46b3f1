"""The plugin as its user has it, beside the real kubectl: what it tells to type is typed, as it stands."""

from __future__ import annotations

import http.client
import json
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster import objects
from tests.component import pods
from tests.component.conftest import Operator
from tests.component.test_crds import VERSION
from tests.support.kubectl import Kubectl
from tests.support.plugin import PLUGIN, User
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def operator(start_operator: Callable[..., Operator]) -> Iterator[Operator]:
    """One operator for the module."""
    process = start_operator("--lease-seconds=3")
    process.wait_ready()
    yield process
    assert process.stop() == 0, process.words()


@pytest.fixture
def user(ns: Kubectl, tmp_path: Path) -> User:
    return User(ns, tmp_path)


def wait_pod(ns: Kubectl, name: str) -> None:
    ns.wait("pod", name, "to be made", lambda found: found, seconds=60)


def test_what_blocks_is_told_and_the_command_mends_it(ns: Kubectl, operator: Operator, user: User) -> None:
    assert user.plugin("status").startswith("There is no TrainingJob, ModelVersion or InferencePool in namespace ")
    job = objects.job("tiny", ["true"], suspend=True, output={"model": {"name": "tiny", "format": "huggingface"}})
    job["spec"]["template"]["spec"]["serviceAccountName"] = "bot"
    ns.apply(job, objects.pool("chat", "tiny"))

    user.obeys(user.status("Suspended"))
    text = user.status("DependencyMissing")
    assert "! tjob/tiny is stuck: DependencyMissing" in text
    assert 'serviceaccount "bot" not found' in text
    assert "> serve   ipool/chat" in text, "the pool waits for the job and needs nothing"
    reason = (
        "A PriorityClass or ServiceAccount that a pod names, or the WorkloadPriorityClass of a job, does not exist."
    )
    assert reason in " ".join(user.plugin("why").split())
    user.obeys(text)
    wait_pod(ns, "tiny-0-0")

    told = json.loads(user.plugin("status ipool/chat -o json"))
    assert [found["name"] for found in told["lines"][0]["objects"]] == ["tiny", "chat"]
    pods.run(ns, "tiny-0-0")
    ns.wait_condition("tjob", "tiny", "Running")
    assert "└─ pod/tiny-0-0  Running" in user.plugin("tree")
    assert re.search(r"^tiny +Running", user.plugin("top"), re.MULTILINE)
    user.plugin("suspend tiny")
    assert ns.get("tjob", "tiny")["spec"]["suspend"] is True


def test_a_full_quota_is_told_with_the_servers_words(ns: Kubectl, operator: Operator, user: User) -> None:
    ns.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}})
    ns.wait("resourcequota", "q", "to be counted", lambda found: found.get("status", {}).get("used"))
    ns.apply(objects.job("big", ["true"]))
    text = user.status("QuotaExceeded")
    assert "exceeded quota: q" in " ".join(text.split())
    user.obeys(text)


def test_a_version_is_asked_again_and_its_lineage_told(ns: Kubectl, operator: Operator, user: User) -> None:
    ns.apply(VERSION)
    wait_pod(ns, "m-v1-verify-0")
    pods.end(ns, "m-v1-verify-0", 1, json.dumps({"reason": "InvalidArtifact", "message": "no config.json"}), "verify")
    user.obeys(user.status("InvalidArtifact"))
    wait_pod(ns, "m-v1-verify-1")
    told = wait_for("an Event", lambda: user.plugin("events mver/m-v1"), lambda seen: "mver/m-v1" in seen)
    assert re.search(r"Warning +InvalidArtifact +mver/m-v1 +.*no config.json", told)
    assert "made by  nobody here: it was registered by hand" in user.plugin("lineage")


def test_errors_are_kubectls_own(ns: Kubectl, operator: Operator, user: User) -> None:
    outcome = user.types("kubectl aifactory status --context nope", code=1)
    assert outcome.err == user.types("kubectl get pods --context nope", code=1).err
    outcome = user.types(f"kubectl aifactory status -n {user.namespace} --as nobody", code=1)
    assert 'User "nobody" cannot list resource' in outcome.err
    ns.apply(objects.job("silent", ["true"]))
    wait_pod(ns, "silent-0-0")
    outcome = user.types(f"kubectl aifactory logs silent -n {user.namespace}")
    assert outcome.err == "pod/silent-0-0  Pending: no log before it runs; see: kubectl aifactory events tjob/silent\n"
    assert (
        "there is no tjob/x in this namespace"
        in user.types(f"kubectl aifactory retry tjob/x -n {user.namespace}", code=1).err
    )


class Viewer:
    """A browser's part of `dashboard`: the address that it prints, and the views that it sends."""

    def __init__(self, user: User, *flags: str) -> None:
        self.process = user.starts(f"kubectl aifactory dashboard -n {user.namespace} {' '.join(flags)}")
        assert self.process.stdout is not None
        self._address = self.process.stdout.readline().split()[-1]
        self._connection = http.client.HTTPConnection(urlsplit(self._address).netloc, timeout=30)
        self._connection.request("GET", f"{urlsplit(self._address).path}changes")
        self._stream = self._connection.getresponse()

    def sees(self, what: str, done: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first view that is like that."""
        deadline, view = time.monotonic() + 30, {}
        while time.monotonic() < deadline:
            line = self._stream.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: ") and done(view := json.loads(line[6:])):
                return view
        raise AssertionError(f"{what}: {view}")

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        self._connection.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=20)


def refs(view: dict[str, Any]) -> set[str]:
    return {found["ref"] for line in view["lines"] for title, cards in line["stages"][1:4] for found in cards}


def test_the_dashboard_shows_what_happens_while_it_happens(ns: Kubectl, operator: Operator, user: User) -> None:
    viewer = Viewer(user)
    try:
        viewer.sees("an empty factory", lambda view: view["known"] and not view["lines"] and not view["troubles"])
        ns.apply(objects.job("seen", ["true"], suspend=True), objects.pool("chat", "tiny"))
        seen = viewer.sees(
            "what blocks", lambda view: refs(view) == {"tjob/seen", "ipool/chat"} and view["blockedInAll"] == 2
        )
        assert {found["reason"]: found["commands"][0] for found in seen["blocked"]} == {
            "Suspended": f"kubectl aifactory -n {user.namespace} resume tjob/seen",
            "WaitingForModel": f"kubectl -n {user.namespace} get mver",
        }
        user.types(seen["blocked"][-1]["commands"][0])
        ns.run("delete", "ipool", "chat")
        viewer.sees("the pool to be gone", lambda view: refs(view) == {"tjob/seen"})
    finally:
        code = viewer.stop()
    assert code == 0
    watching = [path for path in Path("/proc").glob("[0-9]*/cmdline") if user.namespace in _words(path)]
    assert not [path for path in watching if "--output-watch-events" in _words(path)], "a kubectl goes on"


def _words(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended
        return []


def test_the_dashboard_says_what_its_user_may_not_see(ns: Kubectl, operator: Operator, user: User) -> None:
    ns.run("create", "role", "viewer", "--verb=get,list", "--resource=trainingjobs.aifactory.dev")
    ns.run("create", "rolebinding", "viewer", "--role=viewer", "--user=somebody")
    ns.apply(objects.job("seen", ["true"], suspend=True))
    viewer = Viewer(user, "--as", "somebody")
    try:
        seen = viewer.sees("refusals", lambda view: refs(view) and len(view["troubles"]) == 2)
    finally:
        viewer.stop()
    assert refs(seen) == {"tjob/seen"}
    for kind, words in seen["troubles"]:
        assert f'User "somebody" cannot list resource "{kind.lower()}s"' in words


def test_a_cluster_that_is_not_fit_says_so(ns: Kubectl, operator: Operator, user: User) -> None:
    text = user.plugin("check", code=1)
    assert re.search(r"ok +Kubernetes +v1\.\d+", text)
    assert re.search(r"ok +CRDs +3 are established", text)
    assert re.search(r"bad +operator +no Deployment of it", text), "it runs as a process here"
    assert re.search(r"bad +storage +no default StorageClass", text)
    assert re.search(r"ok +PodGroups", text)
    assert re.search(r"(ok|note) +Kueue ", text)
    assert re.search(r"(ok|note) +gateways ", text)


def test_a_report_holds_no_secret(ns: Kubectl, operator: Operator, user: User) -> None:
    ns.run("create", "secret", "generic", "keys", "--from-literal=KEY=hunter2")
    job = objects.job("secretive", ["true"])
    job["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "WORD", "value": "hunter2"}]
    ns.apply(job)
    wait_pod(ns, "secretive-0-0")
    user.plugin("report --file report.zip")
    with zipfile.ZipFile(user.folder / "report.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "hunter2" not in "".join(texts.values())
    (found,) = json.loads(texts["objects/factory.json"])
    assert found["metadata"]["name"] == "secretive"
    assert json.loads(texts["objects/pods.json"])[0]["metadata"]["name"] == "secretive-0-0"
    assert "tjob/secretive" in texts["status.txt"]


def test_kubectl_completes_it(ns: Kubectl, operator: Operator, user: User) -> None:
    ns.apply(objects.job("named", ["true"], suspend=True))
    assert "status" in user.types("kubectl __complete aifactory st").out.split()
    asked = user.types(f"kubectl __complete aifactory status -n {user.namespace} tjob/").out
    assert "tjob/named" in asked.split()


def test_it_starts_at_once(user: User) -> None:
    """Against a Python that does nothing, by the time of the CPU: what else the machine does decides nothing."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(seconds(str(PLUGIN), "--help"), seconds("-c", "pass")) for _ in range(5)]
    ours, nothing = (min(times) for times in zip(*rounds, strict=True))
    assert ours < 10 * nothing, rounds
