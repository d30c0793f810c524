"""Does what the watch finds necessary: quarantine and rollback, hold, and words to people.

Nothing of it is kept beside the log: what was done is a change with its figures as receipt, and
what must be known again after a restart is read from there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agentgym_daemon.errors import PolicyStateError
from agentgym_daemon.policies.book import Change, ScopeKey, scope_key, scope_of
from agentgym_daemon.policies.curation import Curator
from agentgym_daemon.policies.registry import Registry
from agentgym_daemon.store.database import Store
from agentgym_daemon.store.policies import StoredChange, policy_changes
from agentgym_daemon.store.record import Content, Run, contents_of, runs_of
from agentgym_daemon.store.rows import Scope
from agentgym_daemon.watch.alerts import Alerts
from agentgym_daemon.watch.drift import (
    EARLIER,
    EARLIER_CONTROL,
    RECENT,
    RECENT_CONTROL,
    Shift,
    drifts,
)
from agentgym_daemon.watch.verdict import Act, Situation, Verdict, judge

_log = logging.getLogger(__name__)

ACTOR = "watch"
RUNS = 4_000
"""The newest runs of a scope that a look takes in."""
_CONTENTS = max(RECENT + EARLIER, 10 * (RECENT_CONTROL + EARLIER_CONTROL))
_DRIFT_EVERY = 100
_WORDS = {
    "inputs": "what the agent is asked has changed",
    "tools": "the tools that the agent calls by itself have changed",
    "rewards": "the rewards of the control group have changed",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """The last look at a scope."""

    live: str
    verdict: Verdict
    drifts: dict[str, Shift] = field(default_factory=dict)


class Watch:
    """Looks at every scope that has a live version; used on the event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        curator: Curator,
        alerts: Alerts,
        *,
        caught_up: Callable[[], Awaitable[bool]],
        mode: Callable[[], str] = lambda: "act",
        tools_down: Callable[[Scope], list[str]] = lambda _scope: [],
        believe: Callable[[Scope, int | None], None] = lambda _scope, _until_ns: None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._curator = curator
        self._caught_up = caught_up
        self._mode = mode
        self._tools_down = tools_down
        self._believe = believe  # takes the time since which rewards are in doubt; may block
        self._drifted_at: dict[ScopeKey, int] = {}
        self.alerts = alerts
        self.seen: dict[ScopeKey, Seen] = {}
        """The last look at each scope."""

    async def look(self) -> bool:
        """Judges every live version by what is stored now, and acts; says whether it could."""
        if self._mode() == "off":
            return True
        for live in self._registry.book.live():
            # What the last look did must be visible, or it would be done again.
            if not await self._caught_up():
                return False
            await self._look_at(scope_key(live.scope), live.version)
        return True

    async def _look_at(self, key: ScopeKey, live: str) -> None:
        scope = Scope(*key)
        runs, changes = await asyncio.to_thread(self._read, scope)
        situation = self._situation(key, live, changes)
        verdict = await asyncio.to_thread(judge, runs, situation)
        found = await self._drifts(key, runs)
        self.seen[key] = Seen(live, verdict, found)
        if self._mode() == "act":
            await self._weigh_rewards(scope, verdict, held=situation.held)
        if verdict.act is not Act.NOTHING:
            await self._act(key, live, verdict, found)

    async def _weigh_rewards(self, scope: Scope, verdict: Verdict, *, held: bool) -> None:
        """Lets the tools' health believe the rewards, or not those since they are in doubt."""
        if verdict.cause == "rewards":
            await asyncio.to_thread(self._believe, scope, int(verdict.figures["since_ns"]))
        elif not held:
            await asyncio.to_thread(self._believe, scope, None)

    def _read(self, scope: Scope) -> tuple[list[Run], list[StoredChange]]:
        with self._store.reading() as cursor:
            return runs_of(cursor, scope, RUNS), policy_changes(cursor, scope)

    def _situation(self, key: ScopeKey, live: str, changes: list[StoredChange]) -> Situation:
        book = self._registry.book
        versions = [v.version for v in book.versions(key[0])]
        pinned = book.is_pinned(scope_of(key))
        pins = [c for c in changes if c.kind == Change.KIND_PIN]
        held = pinned and bool(pins) and pins[-1].actor == ACTOR
        return Situation(
            live=live,
            quarantined={v for v in versions if book.quarantined(v) is not None},
            pinned=pinned and not held,
            held=held,
            acted_ns=max((c.received_ns for c in changes if c.actor == ACTOR), default=0),
            forgotten_ns=max(
                (c.received_ns for c in changes if c.kind == Change.KIND_UNPIN), default=0
            ),
        )

    async def _drifts(self, key: ScopeKey, runs: list[Run]) -> dict[str, Shift]:
        before = self.seen.get(key)
        newest = len([r for r in runs if r.no > self._drifted_at.get(key, -1)])
        if before is not None and newest < _DRIFT_EVERY:
            return before.drifts
        self._drifted_at[key] = runs[-1].no if runs else -1
        found = await asyncio.to_thread(self._measure, Scope(*key), runs)
        for name, one in found.items():
            if one.alarming:
                figures = {"z": round(one.z, 1), "effect": round(one.effect, 3)}
                self.alerts.tell("drift", key[0], _WORDS[name], figures, about=f"drift of {name}")
            else:
                self.alerts.over(key[0], f"drift of {name}")
        return found

    def _measure(self, scope: Scope, runs: list[Run]) -> dict[str, Shift]:
        with self._store.reading() as cursor:
            contents: list[Content] = contents_of(cursor, scope, _CONTENTS)
        return drifts(contents, runs)

    # ---- acting

    async def _act(
        self, key: ScopeKey, live: str, verdict: Verdict, found: dict[str, Shift]
    ) -> None:
        scope = scope_of(key)
        receipt: dict[str, Any] = {
            "watch": verdict.cause,
            "live": live,
            **verdict.figures,
            "blamed": list(verdict.blamed),
            "tools_down": await asyncio.to_thread(self._tools_down, Scope(*key)),
            "drift": sorted(name for name, one in found.items() if one.alarming),
        }
        text = json.dumps(receipt, sort_keys=True)
        reason = verdict.reason + _beside(receipt)
        act = verdict.act if self._mode() == "act" else Act.TELL
        try:
            if act is Act.ROLL_BACK:
                for version in [*(v for v in verdict.blamed if v != live), live]:
                    if self._registry.book.quarantined(version) is None:
                        await self._curator.quarantine(
                            version, actor=ACTOR, reason=reason, receipt=text
                        )
                now = self._registry.book.live_version(scope) or "no policy"
                reason = f"{live} rolled back to {now}: {reason}"
            elif act is Act.HOLD:
                await self._registry.pin(live, actor=ACTOR, reason=reason, receipt=text)
                reason = (
                    f"{reason}; {live} is pinned until somebody looks "
                    f"(agentgym policy pin --unpin {key[0]})"
                )
            elif act is Act.RELEASE:
                await self._registry.unpin(scope, actor=ACTOR, reason=reason)
                reason = f"{reason}; {live} is held no longer, and learning goes on"
        except PolicyStateError as error:  # changed by somebody else in the same moment
            _log.info("the watch left %s as it is: %s", key, error)
            return
        about = f"{verdict.cause} {live}"
        self.alerts.tell(_KINDS[act], key[0], reason, receipt, about=about)


_KINDS = {
    Act.ROLL_BACK: "rollback",
    Act.HOLD: "hold",
    Act.RELEASE: "release",
    Act.TELL: "fall",
}


def _beside(receipt: dict[str, Any]) -> str:
    """What else is odd, which may be the cause."""
    said = []
    if receipt["tools_down"]:
        said.append(f"tools that fail: {', '.join(receipt['tools_down'])}")
    if receipt["drift"]:
        said.append(f"drift of {', '.join(receipt['drift'])}")
    return f" ({'; '.join(said)})" if said else ""
