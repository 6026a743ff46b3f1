"""When each alert fires, and when it does not: series as promtool writes them, a minute between two values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """Series, a moment, and what fires then: the labels of each alert beside its severity."""

    words: str
    alert: str
    series: dict[str, str]
    minute: int
    fires: list[dict[str, str]] = field(default_factory=list)


def of(name: str, **more: str) -> dict[str, str]:
    """Labels of an object's alert."""
    return {"namespace": "team-a", "name": name, **more}


JOB = 'namespace="team-a",name="gpt"'
POOL = 'namespace="team-a",name="chat"'
STALLED = "aifactory_object_stalled"
LEADS = 'leader_election_master_status{name="aifactory.dev",pod="%s"}'

CASES = [
    Case(
        "a job that waits for a person",
        "AifactoryJobStalled",
        {f'{STALLED}{{kind="TrainingJob",{JOB},reason="ImagePullFailed"}}': "1x20"},
        6,
        [of("gpt", kind="TrainingJob", reason="ImagePullFailed")],
    ),
    Case(
        "it has waited for four minutes",
        "AifactoryJobStalled",
        {f'{STALLED}{{kind="TrainingJob",{JOB},reason="ImagePullFailed"}}': "1x20"},
        4,
    ),
    Case(
        "one that has failed is told by another alert",
        "AifactoryJobStalled",
        {
            f'{STALLED}{{kind="TrainingJob",{JOB},reason="NoProgress"}}': "1x20",
            f'aifactory_job_failed_timestamp_seconds{{{JOB},reason="NoProgress"}}': "0x20",
        },
        6,
    ),
    Case(
        "a job that has failed a while ago",
        "AifactoryJobFailed",
        {f'aifactory_job_failed_timestamp_seconds{{{JOB},reason="NoProgress"}}': "600x120"},
        69,
        [of("gpt", reason="NoProgress")],
    ),
    Case(
        "more than an hour ago",
        "AifactoryJobFailed",
        {f'aifactory_job_failed_timestamp_seconds{{{JOB},reason="NoProgress"}}': "600x120"},
        71,
    ),
    Case(
        "a job that runs and says nothing",
        "AifactoryJobSilent",
        {
            f"aifactory_job_last_report_timestamp_seconds{{{JOB}}}": "60x60",
            f"aifactory_job_running{{{JOB}}}": "1x60",
        },
        17,
        [of("gpt")],
    ),
    Case(
        "one that reports",
        "AifactoryJobSilent",
        {
            f"aifactory_job_last_report_timestamp_seconds{{{JOB}}}": "0+60x60",
            f"aifactory_job_running{{{JOB}}}": "1x60",
        },
        17,
    ),
    Case(
        "one that does not run says nothing either",
        "AifactoryJobSilent",
        {
            f"aifactory_job_last_report_timestamp_seconds{{{JOB}}}": "60x60",
            f"aifactory_job_running{{{JOB}}}": "0x60",
        },
        17,
    ),
    Case("one that has never reported", "AifactoryJobSilent", {f"aifactory_job_running{{{JOB}}}": "1x60"}, 17),
    Case(
        "five restarts within an hour",
        "AifactoryJobRestarts",
        {f"aifactory_job_restarts_total{{{JOB}}}": "2x10 3x10 4x10 5x10 6x10 7x20"},
        60,
        [of("gpt")],
    ),
    Case(
        "two, after many before",
        "AifactoryJobRestarts",
        {f"aifactory_job_restarts_total{{{JOB}}}": "50x30 51x20 52x20"},
        60,
    ),
    Case(
        "a version whose files are not those it should have",
        "AifactoryVersionUnverifiable",
        {f'{STALLED}{{kind="ModelVersion",namespace="team-a",name="gpt-v2",reason="DigestMismatch"}}': "1x20"},
        6,
        [of("gpt-v2", kind="ModelVersion", reason="DigestMismatch")],
    ),
    Case(
        "a job that waits is no version",
        "AifactoryVersionUnverifiable",
        {f'{STALLED}{{kind="TrainingJob",{JOB},reason="ImagePullFailed"}}': "1x20"},
        6,
    ),
    Case(
        "a version that was taken back",
        "AifactoryRolloutTakenBack",
        {
            f'aifactory_pool_rollout{{{POOL},phase="Progressing",reason="RollingOut"}}': "1 1 _x20",
            f'aifactory_pool_rollout{{{POOL},phase="Failed",reason="AnalysisFailed"}}': "_ _ 1x20",
        },
        3,
        [of("chat", phase="Failed", reason="AnalysisFailed")],
    ),
    Case(
        "one that goes on",
        "AifactoryRolloutTakenBack",
        {f'aifactory_pool_rollout{{{POOL},phase="Progressing",reason="RollingOut"}}': "1x20"},
        3,
    ),
    Case(
        "a pool that waits for a person",
        "AifactoryPoolStalled",
        {f'{STALLED}{{kind="InferencePool",{POOL},reason="ModelTooLarge"}}': "1x20"},
        6,
        [of("chat", kind="InferencePool", reason="ModelTooLarge")],
    ),
    Case(
        "because it has taken a version back, which another alert tells",
        "AifactoryPoolStalled",
        {
            f'{STALLED}{{kind="InferencePool",{POOL},reason="AnalysisFailed"}}': "1x20",
            f'aifactory_pool_rollout{{{POOL},phase="Failed",reason="AnalysisFailed"}}': "1x20",
        },
        6,
    ),
    Case(
        "a pool that answers nobody",
        "AifactoryPoolWithoutCapacity",
        {f"aifactory_pool_available{{{POOL}}}": "0x20", f"aifactory_pool_replicas_wanted{{{POOL}}}": "2x20"},
        6,
        [of("chat")],
    ),
    Case(
        "because it is scaled to zero",
        "AifactoryPoolWithoutCapacity",
        {f"aifactory_pool_available{{{POOL}}}": "0x20", f"aifactory_pool_replicas_wanted{{{POOL}}}": "0x20"},
        6,
    ),
    Case(
        "for a moment",
        "AifactoryPoolWithoutCapacity",
        {f"aifactory_pool_available{{{POOL}}}": "0x4 1x20", f"aifactory_pool_replicas_wanted{{{POOL}}}": "2x20"},
        6,
    ),
    Case(
        "a pool that answers with too few pods",
        "AifactoryPoolShort",
        {
            f"aifactory_pool_available{{{POOL}}}": "1x30",
            f"aifactory_pool_replicas_wanted{{{POOL}}}": "3x30",
            f"aifactory_pool_replicas_ready{{{POOL}}}": "2x30",
        },
        16,
        [of("chat")],
    ),
    Case(
        "one that has all",
        "AifactoryPoolShort",
        {
            f"aifactory_pool_available{{{POOL}}}": "1x30",
            f"aifactory_pool_replicas_wanted{{{POOL}}}": "3x30",
            f"aifactory_pool_replicas_ready{{{POOL}}}": "3x30",
        },
        16,
    ),
    Case(
        "GPUs that nobody has asked anything of for hours",
        "AifactoryGpusIdle",
        {
            f"aifactory_pool_gpu_seconds_total{{{POOL}}}": "0+240x300",
            f"aifactory_pool_idle_gpu_seconds_total{{{POOL}}}": "0+240x300",
            f"aifactory_pool_gpus{{{POOL}}}": "4x300",
        },
        240,
        [of("chat")],
    ),
    Case(
        "GPUs that are asked a little",
        "AifactoryGpusIdle",
        {
            f"aifactory_pool_gpu_seconds_total{{{POOL}}}": "0+240x300",
            f"aifactory_pool_idle_gpu_seconds_total{{{POOL}}}": "0+200x300",
            f"aifactory_pool_gpus{{{POOL}}}": "4x300",
        },
        240,
    ),
    Case(
        "no replica leads",
        "AifactoryOperatorNotLeading",
        {LEADS % "a": "0x20", LEADS % "b": "0x20"},
        3,
        [{"name": "aifactory.dev"}],
    ),
    Case(
        "two do",
        "AifactoryOperatorNotLeading",
        {LEADS % "a": "1x20", LEADS % "b": "1x20"},
        3,
        [{"name": "aifactory.dev"}],
    ),
    Case("nothing is told at all", "AifactoryOperatorNotLeading", {"up": "0x20"}, 3, [{}]),
    Case("one leads", "AifactoryOperatorNotLeading", {LEADS % "a": "1x20", LEADS % "b": "0x20"}, 3),
    Case(
        "another controller of the cluster does not",
        "AifactoryOperatorNotLeading",
        {LEADS % "a": "1x20", 'leader_election_master_status{name="cert-manager"}': "0x20"},
        3,
    ),
    Case(
        "statuses that are behind",
        "AifactoryStatusStale",
        {'aifactory_objects_behind{kind="TrainingJob",pod="a"}': "3x30"},
        11,
        [{"kind": "TrainingJob"}],
    ),
    Case(
        "for a moment each",
        "AifactoryStatusStale",
        {'aifactory_objects_behind{kind="TrainingJob",pod="a"}': "3x5 0 1x30"},
        11,
    ),
    Case(
        "reconciles that fail again and again",
        "AifactoryReconcileErrors",
        {'controller_runtime_reconcile_errors_total{controller="trainingjob",pod="a"}': "0+12x60"},
        30,
        [{"controller": "trainingjob"}],
    ),
    Case(
        "now and then, and those of others",
        "AifactoryReconcileErrors",
        {
            'controller_runtime_reconcile_errors_total{controller="trainingjob",pod="a"}': "0+1x60",
            'controller_runtime_reconcile_errors_total{controller="certificate"}': "0+60x60",
        },
        30,
    ),
]
