"""Who may reach a pool's pods: a NetworkPolicy for those that serve and one for its gateway.

What always holds: clients reach serving pods until the pool's Service leads to a gateway, and from then on the gateway
alone does; Triton's counters and the agent's page are for the operator and for whoever reads metrics. What may open
connections to a pod is said here, where a pod connects to is not. A kubelet's probes are no business of policies, nor
is what goes on inside a pod. Policies add up: users open further ports by one of their own.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from aifactory.api import names
from aifactory.api.inferencepool import InferencePool
from aifactory.engine.podspec import Json
from aifactory.serving import scaling
from aifactory.serving.objects import metadata, selector

NETWORK_HELP = "YAML file that says who may reach the pods of pools (the chart's networkPolicies)"


class Network(BaseModel):
    """What the installation says; peers are those of a NetworkPolicy."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    enabled: bool = False
    """For pools that do not say it themselves."""
    operator: tuple[dict[str, Any], ...] = ()
    """The operator's own pods."""
    metrics_from: tuple[dict[str, Any], ...] = ()
    """Who reads metrics."""


def read(path: str) -> Network:
    """The settings in a YAML file; "" stands for none. Raises ValueError, which names the file and the field."""
    if not path:
        return Network()
    try:
        return Network.model_validate(yaml.safe_load(Path(path).read_text()) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: networkPolicies.{where}: {first['msg']}") from error
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def is_wanted(pool: InferencePool, network: Network) -> bool:
    """Whether the pool's pods are to have policies."""
    own = pool.spec.security.network_policy if pool.spec.security is not None else None
    return network.enabled if own is None else own


def policies(
    pool: InferencePool,
    network: Network,
    *,
    openai: bool,
    proxies: bool,
    direct: bool,
    shadow: bool = False,
    triton: bool = True,
) -> list[Json]:
    """The policies, that of the serving pods first.

    Args:
        pool: whose they are.
        network: what the installation says.
        openai: the pods answer OpenAI's API too.
        proxies: there is a gateway, or there shall be one.
        direct: the pool's Service leads to serving pods, or may do so.
        shadow: there are pods that get copies of requests from the gateway, or there may be.
        triton: clients may ask at Triton's own ports. A gateway does so in any case, to see whether a pod lives.
    """
    doors = [names.TRITON_HTTP_PORT, names.TRITON_GRPC_PORT, *([names.OPENAI_PORT] if openai else [])]
    figures = [names.TRITON_METRICS_PORT, names.AGENT_PORT]
    opened = doors if triton else [names.OPENAI_PORT]
    to_pods, to_proxies = ([_rule(_clients(pool), opened)] if direct else []), [_rule(_clients(pool), opened)]
    to_shadow: list[Json] = []
    if proxies:
        to_shadow.append(_rule([{"podSelector": {"matchLabels": selector(pool, names.ROLE_GATEWAY)}}], doors))
    if watching := [*network.operator, *network.metrics_from]:
        to_shadow.append(_rule(watching, figures))
    to_pods += to_shadow
    # The operator asks the proxies of a pool without pods whether a request waits.
    asking = [*(network.operator if scaling.sleeps(pool) else ()), *network.metrics_from]
    if asking:
        to_proxies.append(_rule(asking, [names.GATEWAY_STATUS_PORT]))
    made = [_policy(pool, "serving", names.ROLE_SERVE, to_pods)]
    made += [_policy(pool, "shadow", names.ROLE_SHADOW, to_shadow)] if shadow else []
    return [*made, _policy(pool, "gateway", names.ROLE_GATEWAY, to_proxies)] if proxies else made


def _clients(pool: InferencePool) -> Sequence[Json]:
    """Who may ask; empty stands for everybody."""
    given = pool.spec.security.allow_from if pool.spec.security is not None else None
    return [peer.dump() for peer in given or ()]


def _rule(peers: Sequence[Json], ports: Sequence[int]) -> Json:
    opened = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    return {"from": list(peers), **opened} if peers else opened


def _policy(pool: InferencePool, name: str, role: str, ingress: list[Json]) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(pool, f"{pool.metadata.name}-{name}", {names.LABEL_ROLE: role}),
        "spec": {
            "podSelector": {"matchLabels": selector(pool, role)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
