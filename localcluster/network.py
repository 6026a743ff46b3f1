"""The host's side of the cluster network: one address, two routes, one chain of packet filter rules.

What leaves the cluster is refused here, so that pods and stale addresses never send anything to a network this
machine is in. Idempotent both ways; ``remove`` undoes ``ensure`` and what kube-proxy and the kubelet added.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path

from localcluster import nodefiles
from localcluster.console import CannotRun
from localcluster.controlcommands import SERVICE_RANGE
from localcluster.layout import HOST_ADDRESS, POD_RANGE

CHAIN = "AIFACTORY-FORWARD"
_CNI_RESULTS = Path("/var/lib/cni/results")
_RULES = (
    ("-s", POD_RANGE, "-d", POD_RANGE, "-j", "ACCEPT"),
    ("-s", POD_RANGE, "-j", "REJECT"),
    ("-d", POD_RANGE, "-j", "DROP"),
)


def ensure() -> None:
    """Raises CannotRun if the kernel refuses, e.g. in a container without network administration rights."""
    _ip("link", "set", "lo", "up")
    _ip("address", "replace", f"{HOST_ADDRESS}/32", "dev", "lo")
    # Addresses of Services are rewritten before they go anywhere; one that no Service has ends on the loopback device.
    _ip("route", "replace", SERVICE_RANGE, "dev", "lo", "src", HOST_ADDRESS)
    # A pod that runs has a more specific route; the address of one that ended leads nowhere.
    _ip("route", "replace", "unreachable", POD_RANGE)
    _write("/proc/sys/net/ipv4/ip_forward", "1")
    _iptables("-N", CHAIN, check=False)
    _iptables("-F", CHAIN)
    for rule in _RULES:
        _iptables("-A", CHAIN, *rule)
    if _iptables("-C", "FORWARD", "-j", CHAIN, check=False):
        _iptables("-I", "FORWARD", "-j", CHAIN)


def remove(kube_proxy: Path | None) -> None:
    """Leave the network as it was. ``kube_proxy`` is the program that knows its own rules, if it was built."""
    # Without our chain we never were here, and Kubernetes' own may belong to somebody else's.
    if shutil.which("iptables") and _iptables("-S", CHAIN, check=False) == 0:
        if kube_proxy is not None:
            subprocess.run([str(kube_proxy), "--cleanup"], capture_output=True)
        _iptables("-D", "FORWARD", "-j", CHAIN, check=False)
        _iptables("-F", CHAIN, check=False)
        _iptables("-X", CHAIN, check=False)
        _remove_kubernetes_chains()
    _ip("route", "del", "unreachable", POD_RANGE, check=False)
    _ip("route", "del", SERVICE_RANGE, "dev", "lo", check=False)
    _ip("address", "del", f"{HOST_ADDRESS}/32", "dev", "lo", check=False)
    for result in _CNI_RESULTS.glob(f"{nodefiles.NETWORK}-*"):
        result.unlink(missing_ok=True)


def _remove_kubernetes_chains() -> None:
    """What kube-proxy's own cleaning leaves: a kubelet's chains, and those that only tell of a flush."""
    for program in ("iptables", "ip6tables"):
        for table in ("mangle", "nat", "filter"):
            command = [program, "-w", "-t", table]
            listing = subprocess.run([*command, "-S"], capture_output=True, text=True).stdout
            for change in removals(listing):
                subprocess.run([*command, *change], capture_output=True)


def removals(listing: str) -> list[list[str]]:
    """What rids a table, listed by ``iptables -S``, of Kubernetes' chains: jumps first, then what they led to."""
    chains = re.findall(r"^-N (KUBE-\S+)$", listing, re.MULTILINE)
    rules = (line.split() for line in listing.splitlines() if line.startswith("-A "))
    jumps = [["-D", *words[1:]] for words in rules if words[1] not in chains and words[-1] in chains]
    return [*jumps, *(["-F", chain] for chain in chains), *(["-X", chain] for chain in chains)]


def in_use_by_others() -> str | None:
    """A network this machine is in that overlaps ours, as 'ADDRESS on DEVICE'; None if there is none."""
    listed = _ip("-o", "-4", "address", "show").split("\n")
    ranges = [ipaddress.ip_network(text) for text in (POD_RANGE, SERVICE_RANGE, f"{HOST_ADDRESS}/32")]
    for line in listed:
        words = line.split()
        if len(words) < 4 or words[1] == "lo" or words[1].startswith("veth"):
            continue
        if any(ipaddress.ip_interface(words[3]).network.overlaps(each) for each in ranges):
            return f"{words[3]} on {words[1]}"
    return None


def _ip(*arguments: str, check: bool = True) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise CannotRun(f"'ip {' '.join(arguments)}' failed: {result.stderr.strip()} (needs root and network rights)")
    return result.stdout


def _iptables(*arguments: str, check: bool = True) -> int:
    result = subprocess.run(["iptables", "-w", *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise CannotRun(f"'iptables {' '.join(arguments)}' failed: {result.stderr.strip()}")
    return result.returncode


def _write(path: str, value: str) -> None:
    setting = Path(path)
    if setting.read_text().strip() == value:
        return
    try:
        setting.write_text(value)
    except OSError as error:
        raise CannotRun(f"cannot set {path} to {value}: {error.strerror}") from None
