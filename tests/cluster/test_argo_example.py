"""What Argo CD runs after a sync of `examples/argocd/factory` asks the pool, and fails where nobody answers."""

from __future__ import annotations

from tests.support.kubectl import ROOT, Kubectl

FACTORY = ROOT / "examples/argocd/factory"


def test_the_smoke_test_asks_the_pool(trained: Kubectl) -> None:
    pool, hook = ((FACTORY / f"{name}.yaml").read_text().replace("tiny-gpt", "tiny") for name in ("pool", "smoke-test"))
    nobody = hook.replace("//chat:", "//nobody:").replace("name: smoke-test", "name: nobody")
    nobody = nobody.replace("backoffLimit: 2", "backoffLimit: 0")
    trained.apply(pool)
    try:
        trained.wait_condition("ipool", "chat", "Ready", seconds=120)
        trained.apply(hook, nobody)
        trained.wait_condition("job", "smoke-test", "Complete", seconds=60)
        trained.wait_condition("job", "nobody", "Failed", seconds=90)
    finally:
        trained.run("delete", "ipool/chat", "job/smoke-test", "job/nobody", "--ignore-not-found")
