"""Which turn asked for which call, and what a past agent could have chosen from at each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentgym.trajectory import PastCall, Tool
from agentgym_daemon.importing.model import Asked, SourceSpan
from agentgym_daemon.importing.tree import AgentRun, RunTree
from agentgym_daemon.ingest.foreign import Kind


@dataclass(frozen=True, slots=True)
class PastStep:
    """One choice of a past agent. `turn` is None where only the call itself was recorded."""

    turn: SourceSpan | None
    calls: tuple[SourceSpan, ...]  # executed, in order of their start
    called: tuple[str, ...]  # asked for
    offered: tuple[Tool, ...]
    history: tuple[PastCall, ...]
    inferred: bool  # the offered tools are those that were seen, not those that were recorded
    task: str


@dataclass(frozen=True, slots=True)
class Played:
    """An agent's part of a run, step by step; `unclear` turns may have asked for anything."""

    agent: AgentRun
    steps: tuple[PastStep, ...]
    loose: tuple[SourceSpan, ...]  # calls that no turn asked for
    made: frozenset[str]  # ids of calls of which only the result was recorded
    unclear: int


def play(agent: AgentRun, offered: Catalogue) -> Played:
    """The steps of an agent: one per turn, or, where no turn was recorded, one per call."""
    shown = _from_results(agent)
    calls = sorted([*agent.calls, *shown], key=lambda s: (s.start_ns, s.id))
    made = frozenset(span.id for span in shown)
    if not agent.turns:
        return Played(agent, _calls_alone(agent, calls, offered), (), made, 0)
    owners = _owners(agent.turns, calls)
    by_turn = {
        turn.id: tuple(c for c in calls if owners.get(c.id) == turn.id) for turn in agent.turns
    }
    steps: list[PastStep] = []
    history: list[PastCall] = []
    unclear = 0
    for i, turn in enumerate(agent.turns):
        tools, inferred = offered.of(agent, turn)
        executed = by_turn[turn.id]
        called = _asked_for(
            turn, executed, last=i == len(agent.turns) - 1, instrumented=bool(calls)
        )
        if called is None:
            unclear += 1
        elif tools:
            task = turn.task or agent.span.task
            steps.append(PastStep(turn, executed, called, tools, tuple(history), inferred, task))
        history += [_past(call, tools) for call in executed]
    loose = tuple(call for call in calls if call.id not in owners)
    return Played(agent, tuple(steps), loose, made, unclear)


def _asked_for(
    turn: SourceSpan, executed: Sequence[SourceSpan], *, last: bool, instrumented: bool
) -> tuple[str, ...] | None:
    """Names of the tools that a turn asked for; None if nobody can know."""
    if turn.called is not None:
        return tuple(call.tool for call in turn.called)
    if executed:
        return tuple(call.tool for call in executed)
    # Content was not recorded: the turn answered if it says so, or if calls are recorded and
    # none followed it.
    return () if turn.stopped or turn.error or (last and instrumented) else None


def _owners(turns: Sequence[SourceSpan], calls: Sequence[SourceSpan]) -> dict[str, str]:
    """Call -> the turn that asked for it: by id, by place in the tree, by name, by time."""
    owners: dict[str, str] = {}
    known = {turn.id for turn in turns}
    open_asks = {turn.id: list(turn.called or ()) for turn in turns}
    for call in calls:
        before = [t for t in turns if t.start_ns <= call.start_ns]
        owner = next((t.id for t in reversed(turns) if call.call_id and _asks(t, call.call_id)), "")
        if not owner and call.parent in known:
            owner = call.parent
        if not owner:
            named = (t.id for t in reversed(before) if _named(open_asks[t.id], call.tool))
            owner = next(named, "")
        if not owner and before and before[-1].called is None:
            owner = before[-1].id
        if owner:
            owners[call.id] = owner
            if (ask := _named(open_asks[owner], call.tool)) is not None:
                open_asks[owner].remove(ask)
    return owners


def _asks(turn: SourceSpan, call_id: str) -> bool:
    return any(ask.call_id == call_id for ask in turn.called or ())


def _named(asks: Iterable[Asked], tool: str) -> Asked | None:
    return next((ask for ask in asks if ask.tool == tool), None)


def _from_results(agent: AgentRun) -> list[SourceSpan]:
    """Calls of which a later turn was shown the result, where no call was recorded as a span.

    How they went is not known: no error is claimed.
    """
    if agent.calls:
        return []
    made = []
    for i, turn in enumerate(agent.turns):
        for number, ask in enumerate(turn.called or ()):
            wanted = ask.call_id or ask.tool
            later = next((t for t in agent.turns[i + 1 :] if wanted in t.answered), None)
            if later is not None:
                start = turn.end_ns or turn.start_ns
                made.append(
                    replace(
                        turn,
                        id=f"{turn.id}/call/{number}",
                        parent=turn.id,
                        kind=Kind.TOOL,
                        name=ask.tool,
                        tool=ask.tool,
                        call_id=ask.call_id,
                        start_ns=start,
                        end_ns=max(start, later.start_ns),
                        error="",
                        called=None,
                        offered=None,
                    )
                )
    return made


def _calls_alone(
    agent: AgentRun, calls: Sequence[SourceSpan], offered: Catalogue
) -> tuple[PastStep, ...]:
    steps: list[PastStep] = []
    history: list[PastCall] = []
    for call in calls:
        tools, inferred = offered.of(agent, None)
        steps.append(
            PastStep(None, (call,), (call.tool,), tools, tuple(history), inferred, agent.span.task)
        )
        history.append(_past(call, tools))
    return tuple(steps)


def _past(call: SourceSpan, tools: Sequence[Tool]) -> PastCall:
    found = next((tool.fingerprint for tool in tools if tool.name == call.tool), b"")
    return PastCall(found, bool(call.error))


class Catalogue:
    """What each agent was offered: as recorded at the turn, at its run, or as seen in the files.

    `given` are definitions from elsewhere (the user, the daemon) for tools that are only known by
    name: without its definition a tool of the past is not the tool of today.
    """

    def __init__(
        self, trees: Iterable[tuple[str, RunTree]], given: Mapping[str, Tool] | None = None
    ) -> None:
        self._given = dict(given or {})
        self._recorded: dict[tuple[str, str], dict[str, Tool]] = {}
        self._seen: dict[tuple[str, str], dict[str, Tool]] = {}
        self._scope: dict[int, tuple[str, str]] = {}
        for agent, tree in trees:
            for run in tree.agents:
                self._look(agent, run)

    @property
    def unknown(self) -> set[str]:
        """Names of tools that nobody defined."""
        return {
            tool.name
            for scope, tools in self._seen.items()
            for tool in tools.values()
            if scope not in self._recorded and tool.name not in self._given and not tool.description
        }

    def _look(self, agent: str, run: AgentRun) -> None:
        scope = self._scope[id(run)] = (agent, run.name)
        for span in (run.span, *run.turns):
            for tool in span.offered or ():
                self._recorded.setdefault(scope, {})[tool.name] = tool
        seen = self._seen.setdefault(scope, {})
        for call in run.calls:
            known = call.definition or Tool(call.tool)
            if not seen.get(call.tool, Tool("")).description:
                seen[call.tool] = known
        for turn in run.turns:
            for ask in turn.called or ():
                seen.setdefault(ask.tool, Tool(ask.tool))

    def of(self, agent: AgentRun, turn: SourceSpan | None) -> tuple[tuple[Tool, ...], bool]:
        """The tools at a turn (None: at a lone call), and whether they are inferred."""
        recorded = (turn.offered if turn is not None else None) or agent.span.offered
        if recorded:
            return recorded, False
        scope = self._scope[id(agent)]
        if turn is not None and scope in self._recorded and not (turn.called or ()):
            # The source records what is offered, and here nothing was.
            return (), False
        seen = {**self._seen.get(scope, {}), **self._recorded.get(scope, {})}
        return tuple(self._given.get(name, seen[name]) for name in sorted(seen)), True
