"""One decision about one InferencePool: the story of a reconcile.

Resolve the wish to a version, give each revision its number of pods, tell the truth about it. Nothing here does I/O or
reads a clock. In a pool of several models a revision is all that its pods serve (`packing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from aifactory.api import names
from aifactory.api.conditions import shorten
from aifactory.api.inferencepool import InferencePool, InferencePoolStatus
from aifactory.api.reasons import Reason
from aifactory.engine import apply
from aifactory.engine.plan import Delete, Event, Patch, Plan, Write
from aifactory.serving import (
    analysis,
    assignment,
    autoscale,
    disruption,
    engines,
    gateway,
    loading,
    network,
    packing,
    requests,
    rollout,
    room,
    route,
    scaling,
    shape,
    steps,
    swap,
    traffic,
)
from aifactory.serving.analysis import Outcome
from aifactory.serving.assignment import Waiting
from aifactory.serving.autoscale import Outlook
from aifactory.serving.rollout import Progress, Verdict
from aifactory.serving.state import Observed, VersionView, Wish
from aifactory.serving.status import StatusDraft
from aifactory.serving.swap import Choice
from aifactory.serving.traffic import Course


def plan_pool(observed: Observed, now: datetime) -> Plan[InferencePoolStatus] | None:
    """What to do about one pool now; None when it is being deleted.

    Args:
        observed: the pool and everything that belongs to it, from one moment's stores.
        now: the time, in UTC.
    """
    pool = observed.pool
    if pool.metadata.deletion_timestamp is not None:
        return None
    scaled = autoscale.look(observed, now)
    if scaled.first:
        return _scaled(observed, scaled)
    wanted = scaling.wanted(pool)
    draft = StatusDraft(observed, wanted, now, scaled.status)
    plan = _plan(observed, wanted, draft, now)
    due = [each for each in (plan.requeue_after, scaled.due, draft.due) if each is not None]
    return replace(plan, requeue_after=min(due, default=None))


def _plan(observed: Observed, wanted: int, draft: StatusDraft, now: datetime) -> Plan[InferencePoolStatus]:
    pool = observed.pool
    stable = traffic.stable_pods(pool)
    if observed.has_several:
        packed = packing.pack(observed, now)
        target = packed.target
        draft.several(packed)
    else:
        target = assignment.resolve(pool.spec.models[0], observed.versions)
    if isinstance(target, Waiting):
        return _plan_waiting(observed, target, stable, wanted, draft)
    if (waiting := engines.unfit(pool, target)) is not None:
        return _plan_waiting(observed, waiting, stable, wanted, draft)

    revision, image = _wanted_revision(observed, target)
    serves = traffic.stable_revision(pool.status) == revision
    # Pods that serve are never stopped for a doubt about their memory.
    if not serves and (words := _too_large(pool, target)):
        return _plan_waiting(observed, Waiting(Reason.MODEL_TOO_LARGE, words), stable, wanted, draft)
    own = Wish(target, revision, image, stable if serves else traffic.new_pods(pool, revision))
    choice = swap.choose(observed, target, revision)
    if not serves and choice.refused:
        refused = Waiting(Reason.HOT_SWAP_IMPOSSIBLE, swap.refusal(choice))
        return _plan_waiting(observed, refused, stable, wanted, draft)
    pods = {swap.HOT_SWAP: stable, steps.SHADOW: traffic.shadow_pods(revision)}
    wish = replace(own, pods=pods.get(choice.strategy, own.pods))
    tries = (own, wish) if choice.strategy == steps.SHADOW else (own,)
    draft.resolved(target)
    remains = any(_is_being_removed(observed, each, stable) for each in tries)
    match traffic.course(pool, revision, remains=remains, now=now):
        case Course.ROLL_OUT if requests.ABORT in requests.new(pool):
            return _taken_back(wish, stable, draft, choice, rollout.ABORTED)
        case Course.STEADY if swap.is_unfinished(observed, own):
            return _plan_swap(observed, own, stable, wanted, draft, now, Choice(swap.HOT_SWAP, _BACK))
        case Course.STEADY:
            return _plan_steady(observed, own, wanted, draft)
        case Course.HELD_BACK:
            return _plan_held_back(observed, stable, revision, wanted, draft, now)
        case Course.RETRY:
            # In status first: what is made before this is known would be taken for the rest of the earlier try.
            draft.rolling(stable, wish, rollout.progress(observed, wish, choice.strategy, 0, now), choice)
            return Plan(draft.result(), urgent=True, requeue_after=0)
        case Course.ROLL_OUT if choice.strategy == swap.HOT_SWAP:
            return _plan_swap(observed, wish, stable, wanted, draft, now, choice)
        case Course.ROLL_OUT if choice.strategy in (steps.CANARY, steps.SHADOW):
            return _plan_steps(observed, wish, own, stable, wanted, draft, now, choice)
        case Course.ROLL_OUT:
            return _plan_rollout(observed, wish, stable, wanted, draft, now, choice)


def _scaled(observed: Observed, scaled: Outlook) -> Plan[InferencePoolStatus]:
    """Another number of pods: in status first, so that whoever leads then makes or removes them."""
    status = observed.pool.status.model_copy(update={"scaling": scaled.status})
    events = (Event("Normal", str(Reason.SCALED), shorten(scaled.event)),) if scaled.event else ()
    return Plan(status, autoscale.costs(observed) if scaled.fewer else (), urgent=True, requeue_after=0, events=events)


_BACK = "the pods serve again what they served before"


def _too_large(pool: InferencePool, target: VersionView) -> str:
    if pool.spec.loads_on_demand:
        return next(filter(None, (room.too_many(pool, each, ()) for each in target.all)), "")
    if target.beside is None:
        return room.too_large(pool, target)
    return room.too_many(pool, target, target.beside)


def _is_being_removed(observed: Observed, wish: Wish, stable: str) -> bool:
    """Something is left of an earlier try of the revision.

    Not what goes on serving because nothing of the stable revision is there any more: it stays, and a new try starts
    from it.
    """
    if stable and wish.revision in (observed.assigned(stable), *swap.said(observed, stable)):
        return True
    view = observed.find(wish.pods)
    return view is not None and (view.terminating or not view.ready or observed.find(stable) is not None)


def _wanted_revision(observed: Observed, target: VersionView) -> tuple[str, str]:
    """The revision to be served and its image of Triton.

    A pool that only an upgrade of the installation would change stays as it is until it is its turn.
    """
    pool, stable = observed.pool, observed.pool.status.stable
    image = shape.image_of(pool, observed.settings)
    if stable is not None:
        kept = image if observed.may_upgrade else stable.image
        as_made = shape.revision_of(pool, target, kept, shape.shape_version(stable.revision))
        if as_made == stable.revision:
            return stable.revision, kept
    return shape.revision_of(pool, target, image), image


def _plan_waiting(
    observed: Observed, waiting: Waiting, stable: str, wanted: int, draft: StatusDraft
) -> Plan[InferencePoolStatus]:
    """Nothing new can be served; what is served goes on."""
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.restore(wanted)
    writes.nudge()
    draft.waiting(waiting, stable)
    return Plan(draft.result(), writes.all())


def _plan_steady(observed: Observed, wish: Wish, wanted: int, draft: StatusDraft) -> Plan[InferencePoolStatus]:
    """One revision, for now or for good."""
    writes = _Writes(observed, wish.pods)
    writes.surroundings()
    writes.grow(wish, wanted)
    complete = draft.steady(wish)
    return Plan(draft.result(), writes.all(), urgent=complete or draft.stable_changed)


def _plan_held_back(
    observed: Observed, stable: str, failed: str, wanted: int, draft: StatusDraft, now: datetime
) -> Plan[InferencePoolStatus]:
    """The wanted revision was taken back: the stable one keeps all traffic until it is tried again, if ever."""
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.restore(wanted)
    writes.nudge()
    draft.held_back(stable, failed)
    again = observed.pool.status.rollout.retry_time if observed.pool.status.rollout is not None else None
    wait = max(1.0, (again - now).total_seconds()) if again is not None else None
    return Plan(draft.result(), writes.all(), requeue_after=wait)


def _plan_rollout(
    observed: Observed, wish: Wish, stable: str, wanted: int, draft: StatusDraft, now: datetime, choice: Choice
) -> Plan[InferencePoolStatus]:
    """The candidate comes up beside the stable revision and takes over pod by pod, or is taken back."""
    ready = observed.ready(wish.pods)
    if ready >= wanted:
        # In status first: if what it replaces were removed before, and then the wish changed, nobody would know it.
        return _promoted(wish, draft, choice, None)
    reached = rollout.progress(observed, wish, choice.strategy, ready, now)
    if (verdict := rollout.verdict(observed, wish.pods, reached, wanted, now)) is not None:
        return _taken_back(wish, stable, draft, choice, verdict)
    draft.rolling(stable, wish, reached, choice)
    if reached.resumed:
        # In status first: a pod that is asked for now would be late already.
        return Plan(draft.result(), urgent=True, requeue_after=0)
    writes = _Writes(observed, stable)
    writes.surroundings()
    writes.grow(wish, wanted)
    writes.assign_stable()
    writes.nudge()
    return Plan(draft.result(), writes.all(), requeue_after=_until_deadline(observed, reached, now))


def _plan_steps(
    observed: Observed,
    wish: Wish,
    own: Wish,
    stable: str,
    wanted: int,
    draft: StatusDraft,
    now: datetime,
    choice: Choice,
) -> Plan[InferencePoolStatus]:
    """The candidate gets a part of the requests, or copies of it, step by step, and all of them at the end.

    Or it is taken back. In a Shadow `wish` has pods that no client is led to, and the pool goes over by others, those
    of `own` or the ones that run.
    """
    planned = steps.steps_of(observed.pool)
    walk = steps.resume(planned, observed.pool.status.rollout, wish.revision)
    writes = _Writes(observed, stable)
    if walk is None and not wanted:
        return _promoted(own, draft, choice, None)  # there are no requests to get a part of
    if not writes.can_restore():
        alone = Choice(swap.SURGE, "nothing is left of what was served, so no part of the requests can stay with it")
        return _plan_rollout(observed, own, stable, wanted, draft, now, alone)
    writes.surroundings()
    if walk is None and any(view.revision != stable for view in observed.revisions):
        writes.restore(wanted)
        writes.nudge()
        reached = rollout.progress(observed, wish, choice.strategy, 0, now)
        draft.rolling(stable, wish, reached, choice, note=_GIVEN_UP_FIRST)
        return Plan(draft.result(), writes.all())

    ready = observed.ready(wish.pods)
    reached = rollout.progress(observed, wish, choice.strategy, ready, now)
    goal, _ = scaling.part(wanted, walk.part if walk is not None else 0)
    if (verdict := rollout.verdict(observed, wish.pods, reached, goal, now)) is not None:
        return _taken_back(wish, stable, draft, choice, verdict)
    if walk is not None and walk.weight == 100 and not walk.paused and 0 < wanted <= ready:
        return _promoted(wish, draft, choice, None)
    before = steps.counted(walk, wish.revision, observed.measured) if walk is not None else None
    asked = requests.new(observed.pool)
    look = steps.look_at(observed.pool, before, now) if before is not None and wanted else None
    failed = look is not None and look.outcome is Outcome.FAILED and requests.PROMOTE not in asked
    if look is not None and failed and steps.takes_back(observed.pool):
        words = f"its analysis failed: {look.words(analysis.FAILED)}"
        return _taken_back(wish, stable, draft, choice, Verdict(Reason.ANALYSIS_FAILED, words, findings=look.findings))
    walk = before or steps.begin(planned, now)
    if wanted:
        there = before is not None and ready >= goal and (observed.gateway.routed or not walk.mirrors)
        walk = steps.follow(walk, asked, look, there=there, now=now)
    if choice.strategy == steps.SHADOW and not walk.mirrors:
        # In status first: until it says so no client is led to the version.
        other = swap.after_shadow(observed, own)
        over = replace(own, pods=stable) if other.strategy == swap.HOT_SWAP else own
        draft.rolling(stable, over, Progress(now.replace(microsecond=0), 0), other, look=look)
        return Plan(draft.result(), urgent=True, requeue_after=0)
    if walk.at != (before.at if before is not None else -1):
        reached = Progress(walk.since, reached.most_ready)  # another step, another deadline
    draft.walking(stable, wish, reached, choice, walk, look)
    if walk != before or reached.resumed:
        # In status first: what is done for a step is done by whoever leads then.
        stays = walk.paused and before is not None and not before.paused and look is not None and failed
        told = f"{wish.version.name} stays at its step: {look.words(analysis.FAILED)}" if stays and look else ""
        event = Event("Warning", str(Reason.ANALYSIS_FAILED), shorten(told))
        return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,) if told else ())
    if walk.mirrors:
        writes.shadow(wish, scaling.part(wanted, walk.part)[0])
        writes.restore(wanted)
    else:
        writes.split(wish, wanted, walk.weight)
    writes.nudge()
    due = [_until_deadline(observed, reached, now)] if ready < goal else []
    due += [max(1.0, (walk.due - now).total_seconds())] if walk.due is not None and wanted and now < walk.due else []
    return Plan(draft.result(), writes.all(), requeue_after=min(due, default=None))


_GIVEN_UP_FIRST = "what the pool was changing over to before is given up first"


def _plan_swap(
    observed: Observed, wish: Wish, stable: str, wanted: int, draft: StatusDraft, now: datetime, choice: Choice
) -> Plan[InferencePoolStatus]:
    """The pods that run change over to a version; all of them go back, if there is a way back, if none can load it."""
    swapped = swap.look(observed, wish)
    serves = traffic.stable_revision(observed.pool.status) in ("", wish.revision)
    if observed.assigned(wish.pods) == wish.revision and not swapped.missing:
        if serves:
            return _plan_steady(observed, wish, wanted, draft)
        if len(swapped.done) >= wanted:
            return _promoted(wish, draft, choice, swapped.load_seconds)
    reached = rollout.progress(observed, wish, choice.strategy, len(swapped.done), now)
    verdict = None if serves else rollout.swap_verdict(observed, wish, len(swapped.done), reached, wanted, now)
    if not serves and (other := swap.instead(observed, wish, now - reached.since)) is not None:
        # In status first: it is remembered there that the pods have no room.
        own = replace(wish, pods=traffic.new_pods(observed.pool, wish.revision))
        draft.rolling(stable, own, rollout.progress(observed, own, other.strategy, 0, now), other)
        return Plan(draft.result(), urgent=True, requeue_after=0)
    if verdict is not None:
        return _taken_back(wish, stable, draft, choice, verdict)
    draft.swapping(stable, wish, reached, choice, swapped)
    if reached.resumed or not traffic.is_under_way(observed.pool.status, swap.HOT_SWAP, wish.revision):
        # In status first: pods are asked what they serve while it says that they change over.
        return Plan(draft.result(), urgent=True, requeue_after=0)
    writes = _Writes(observed, wish.pods)
    writes.surroundings()
    writes.grow(wish, wanted)
    writes.nudge(wish)
    again = swap.SILENCE.total_seconds()
    due = again if serves else min(_until_deadline(observed, reached, now), again)
    return Plan(draft.result(), writes.all(), requeue_after=due)


def _promoted(wish: Wish, draft: StatusDraft, choice: Choice, load_seconds: float | None) -> Plan[InferencePoolStatus]:
    draft.promoted(wish, choice, load_seconds)
    takes = "all traffic" if wish.version.beside is None else f"all requests for {wish.version.model}"
    event = Event("Normal", str(Reason.ROLLED_OUT), f"{wish.version.name} takes {takes}")
    return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))


def _taken_back(
    wish: Wish, stable: str, draft: StatusDraft, choice: Choice, verdict: Verdict
) -> Plan[InferencePoolStatus]:
    draft.failed(stable, wish, verdict, choice)
    words = shorten(f"{wish.version.name} is taken back: {verdict.message}")
    event = Event("Warning", str(verdict.reason), words)
    return Plan(draft.result(), urgent=True, requeue_after=0, events=(event,))


def _until_deadline(observed: Observed, reached: Progress, now: datetime) -> float:
    left = (reached.since + rollout.deadline(observed.pool.spec) - now).total_seconds()
    return max(1.0, left)


class _Writes:
    """Collects what has to be made, put right, resized and removed, around the revision that takes the traffic."""

    def __init__(self, observed: Observed, stable: str) -> None:
        self._observed = observed
        self._stable = stable
        self._shadow = ""
        self._writes: list[Write] = []

    def all(self) -> tuple[Write, ...]:
        """All of it."""
        return tuple(self._writes)

    def surroundings(self) -> None:
        """What pods of every revision share exists as it should."""
        pool, observed = self._observed.pool, self._observed
        leads = gateway.takes_requests(observed)
        service = traffic.service(pool, openai=observed.generates_text, gateway=leads)
        self._writes += apply.ensure(service, observed.service)
        self._writes += gateway.writes(observed)
        self._writes += route.writes(observed)
        self._policies()
        if self._observed.budget is not None or disruption.wants_budget(pool):
            self._writes += apply.ensure(disruption.budget(pool), self._observed.budget)

    def _policies(self) -> None:
        """Who may reach the pods, as the way to them is now: clients are shut out once they are led elsewhere."""
        observed, pool = self._observed, self._observed.pool
        view, wanted = observed.gateway, {}
        if network.is_wanted(pool, observed.settings.network):
            proxied = gateway.is_wanted(pool)
            made = network.policies(
                pool,
                observed.settings.network,
                openai=observed.generates_text,
                triton=not observed.on_demand,
                proxies=proxied or view.deployment is not None,
                direct=not proxied or not (view.routed or observed.service is None),
                shadow=proxied and (bool(observed.shadows) or steps.mirrors(pool)),
            )
            wanted = {body["metadata"]["name"]: body for body in made}
        there = {child.name: child for child in observed.policies}
        for name, body in wanted.items():
            self._writes += apply.ensure(body, there.get(name))
        gone = (child for name, child in there.items() if name not in wanted)
        self._writes += (Delete("NetworkPolicy", child.name, child.uid) for child in gone)

    def grow(self, wish: Wish, wanted: int) -> None:
        """The pods of a wish exist and get all the traffic, one by one where others hold it."""
        sizes = self._share(wish.pods, wanted)
        self._ensure(wish, sizes[wish.pods])
        self._resize(sizes, kept={wish.pods, self._stable})

    def split(self, wish: Wish, wanted: int, weight: int) -> None:
        """The pods of a wish get their part, and the stable revision keeps its own."""
        ready = {view.revision: view.ready for view in self._observed.revisions if not view.terminating}
        sizes = scaling.split(wanted, ready, wish.pods, self._stable, weight)
        self._ensure(wish, sizes[wish.pods])
        if (found := self._stable_wish(as_made=True)) is not None:
            self._ensure(found, sizes[self._stable])
        else:
            self.assign_stable()
        self._resize(sizes, kept={wish.pods, self._stable})

    def shadow(self, wish: Wish, replicas: int) -> None:
        """The pods of a wish get copies of requests."""
        self._shadow = wish.pods
        self._ensure(wish, replicas)
        view = self._observed.find(wish.pods)
        if view is not None and not view.terminating and view.wanted != replicas:
            self._writes.append(Patch("Deployment", view.child.name, {"spec": {"replicas": replicas}}))

    def can_restore(self) -> bool:
        """The stable revision is there, or can be made again."""
        return self._observed.find(self._stable) is not None or self._stable_wish(as_made=True) is not None

    def restore(self, wanted: int) -> None:
        """The stable revision gets all pods back, and is made again if somebody removed it.

        Before there was one, what has become ready goes on serving, and nothing is started.
        """
        if not self._stable:
            self._resize(self._share("", wanted), kept=set())
            return
        sizes = self._share(self._stable, wanted)
        if (found := self._stable_wish(as_made=True)) is not None:
            self._ensure(found, sizes[self._stable])
        else:
            self.assign_stable()
        self._resize(sizes, kept={self._stable})

    def assign_stable(self) -> None:
        """The stable pods are told to serve what they served, where a change in them was given up."""
        assigned = self._observed.assigned(self._stable)
        if assigned in ("", traffic.stable_revision(self._observed.pool.status)):
            return
        if (found := self._stable_wish(as_made=False)) is not None:
            self._assign(found)

    def nudge(self, wish: Wish | None = None) -> None:
        """Pods that do not know yet what they are told to serve are brought it: those of a wish, or the stable ones."""
        pods = wish.pods if wish is not None else self._stable
        revision = wish.revision if wish is not None else traffic.stable_revision(self._observed.pool.status)
        if pods and revision:
            told = swap.to_nudge(self._observed, pods, revision, all_of_them=wish is not None)
            self._writes += (assignment.nudge(name, revision) for name in told)

    def _share(self, growing: str, wanted: int) -> dict[str, int]:
        ready = {view.revision: view.ready for view in self._observed.revisions if not view.terminating}
        return scaling.share(wanted, ready, growing, self._stable)

    def _assign(self, wish: Wish) -> None:
        config = next((view.child for view in self._observed.configs if view.revision == wish.pods), None)
        warm, engine = swap.warm(self._observed, wish), shape.engine_of(wish.revision, wish.version)
        pool = self._observed.pool
        body = assignment.config(pool, wish.version, wish.revision, wish.pods, warm, engine, loading.told(pool))
        self._writes += apply.ensure(body, config)

    def _ensure(self, wish: Wish, replicas: int) -> None:
        self._assign(wish)
        found = self._observed.find(wish.pods)
        if found is None or apply.is_meddled_with(found.child):
            pool, settings = self._observed.pool, self._observed.settings
            role = names.ROLE_SHADOW if wish.pods == self._shadow else names.ROLE_SERVE
            body = shape.deployment(pool, wish.version, settings, wish.pods, wish.image, replicas, role)
            self._writes.append(apply.create(body) if found is None else apply.repair(body, found.child))

    def _resize(self, sizes: Mapping[str, int], kept: set[str]) -> None:
        """Each revision gets its number; one with none that is not kept goes, its pods drain on their way out."""
        for view in self._observed.revisions:
            if view.terminating:
                continue
            size = sizes[view.revision]
            if size or view.revision in kept:
                if view.wanted != size:
                    self._writes.append(Patch("Deployment", view.child.name, {"spec": {"replicas": size}}))
            elif not route.holds(self._observed, view.revision):
                self._writes.append(Delete("Deployment", view.child.name, view.child.uid))
        for view in self._observed.shadows:
            if view.revision != self._shadow and not view.terminating:
                self._writes.append(Delete("Deployment", view.child.name, view.child.uid))
        for config in self._observed.configs:
            if config.revision not in kept | {self._shadow} and not sizes.get(config.revision):
                self._writes.append(Delete("ConfigMap", config.child.name, config.child.uid))

    def _stable_wish(self, *, as_made: bool) -> Wish | None:
        """What is served, if its version is there as it was, and with `as_made` its pods would be made the same way."""
        pool, stable = self._observed.pool, self._observed.pool.status.stable
        if stable is None:
            return None
        served = self._observed.served(stable)
        if served is None:
            return None
        found = packing.as_made(self._observed, served)
        made_by = shape.shape_version(stable.revision)
        same = shape.revision_of(pool, found, stable.image, made_by) == stable.revision
        if not same and (as_made or not shape.assigns(stable.revision, found)):
            return None
        return Wish(found, stable.revision, stable.image, self._stable)
