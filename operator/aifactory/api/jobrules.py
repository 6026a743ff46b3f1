"""Rules of a TrainingJob that concern more than one of its fields, in the words of the user."""

from __future__ import annotations

from aifactory.api import names
from aifactory.api.rules import OWN_VOLUMES_RULE, rule

RESERVED_ENV_RULE = rule(
    "!has(self.template.spec) || !has(self.template.spec.containers) || "
    "self.template.spec.containers.all(c, c.name != 'trainer' || !has(c.env) || c.env.all(e, !(e.name in ["
    + ", ".join(f"'{name}'" for name in (*names.RESERVED_ENV, *names.REFUSED_ENV))
    + "])))",
    "template: the environment variables AIFACTORY_* (those the operator sets), PET_* (but PET_RDZV_CONF and "
    "PET_SHUTDOWN_TIMEOUT), MASTER_ADDR, MASTER_PORT, WORLD_SIZE, NODE_RANK and TORCHELASTIC_ERROR_FILE are set by the "
    "operator: remove them from the trainer's env; use nodes, procPerNode and launcher instead",
)

TEMPLATE_RULES = [
    OWN_VOLUMES_RULE,
    rule(
        "!has(self.template.spec) || !has(self.template.spec.restartPolicy) || "
        "self.template.spec.restartPolicy == 'Never'",
        "template.spec.restartPolicy must be Never or left out: all pods restart together, see failurePolicy",
    ),
    rule(
        "!has(self.template.spec) || !(has(self.template.spec.hostname) || has(self.template.spec.subdomain))",
        "template.spec.hostname and subdomain can not be set: pods find each other by their own names, <job>-<index>-"
        "<attempt>.<job>-nodes",
    ),
    rule(
        "!has(self.template.spec) || !has(self.template.spec.containers) || "
        "self.template.spec.containers.all(c, c.name != 'trainer' || !has(c.restartPolicy))",
        "template.spec.containers: restartPolicy and restartPolicyRules of the trainer can not be set: all pods "
        "restart together, see failurePolicy",
    ),
    rule(
        "!has(self.template.spec) || !has(self.template.spec.containers) || "
        "self.template.spec.containers.all(c, c.name != 'trainer' || !has(c.volumeMounts) || "
        "c.volumeMounts.all(m, !(m.mountPath in ["
        + ", ".join(f"'{path}', '{path}/'" for path in (names.WORKSPACE_MOUNT, names.PROGRESS_TOKEN_MOUNT))
        + "])))",
        f"template.spec.containers: the trainer's {names.WORKSPACE_MOUNT} and {names.PROGRESS_TOKEN_MOUNT} are mounted "
        "by the operator: choose another mountPath, or set spec.workspace",
    ),
    rule(
        "!has(self.inputs) || !has(self.template.spec) || !has(self.template.spec.containers) || "
        "self.template.spec.containers.all(c, c.name != 'trainer' || !has(c.volumeMounts) || c.volumeMounts.all(m, "
        f"m.mountPath != '{names.INPUTS_MOUNT}' && !m.mountPath.startsWith('{names.INPUTS_MOUNT}/')))",
        f"template.spec.containers: {names.INPUTS_MOUNT} of the trainer is where spec.inputs are mounted: choose "
        "another mountPath, or drop spec.inputs",
    ),
]

PUBLISHED_RULE = rule(
    "!has(oldSelf.status) || !has(oldSelf.status.output) || !has(oldSelf.status.output.modelVersion) || "
    "oldSelf.status.output.modelVersion == '' || !has(self.spec.output) || !has(oldSelf.spec.output) || "
    "self.spec.output.model.format == oldSelf.spec.output.model.format",
    "output.model.format is immutable now, for the result is published: create another TrainingJob or a ModelVersion",
)
"""Of the whole object: whether something is published stands in its status."""

FINISHED_RULE = rule(
    "!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Succeeded', 'Failed']) || "
    "(self.spec.template == oldSelf.spec.template && self.spec.nodes == oldSelf.spec.nodes && "
    + " && ".join(
        f"has(self.spec.{field}) == has(oldSelf.spec.{field}) && "
        f"(!has(self.spec.{field}) || self.spec.{field} == oldSelf.spec.{field})"
        for field in ("procPerNode", "launcher", "inputs")
    )
    + ")",
    "the job has ended, so template, nodes, procPerNode, launcher and inputs can not change any more: create another "
    "TrainingJob, under another name, or delete this one first",
)
"""In Git a fix would be in place and nothing would train."""
