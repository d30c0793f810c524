"""The spans of one past run as a tree of what matters: agents, turns of a model, tool calls.

Spans of other kinds (chains, retrievers) leave it, and their children move up. A model's span below
another one is the same call recorded twice (framework and client): the outer one stays and takes
over what only the inner one knows. What a tool does inside is the tool's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from agentgym_daemon.importing.model import SourceSpan
from agentgym_daemon.ingest.foreign import Kind


@dataclass(slots=True)
class AgentRun:
    """One agent's part of a run; `turns` and `calls` in order of their start."""

    span: SourceSpan
    above: AgentRun | None
    path: tuple[str, ...]
    turns: list[SourceSpan] = field(default_factory=list)
    calls: list[SourceSpan] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The agent's name as it was recorded; may be empty."""
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class RunTree:
    """A whole run; `agents` from the outermost inwards, the first is its root."""

    agents: tuple[AgentRun, ...]
    made_root: bool  # the source has no single span that stands for the run
    left_out: int  # spans of kinds that are no agent, turn or call

    @property
    def root(self) -> AgentRun:
        """The outermost agent."""
        return self.agents[0]


def build(spans: Sequence[SourceSpan], *, root_id: str) -> RunTree:
    """The tree of the spans of one run; `root_id` names a root that has to be made."""
    by_id = _calls_recognised({s.id: s for s in sorted(spans, key=lambda s: (s.start_ns, s.id))})
    parents = _parents(by_id)
    tops = [s for s in by_id.values() if not parents[s.id]]
    single = tops[0] if len(tops) == 1 and tops[0].kind not in (Kind.LLM, Kind.TOOL) else None
    top = single or _made(tops, list(by_id.values()), root_id)
    if top.kind is Kind.OTHER:
        top = replace(top, kind=Kind.AGENT)
    root = AgentRun(top, None, (top.agent_name,))
    runs, left_out = {top.id: root}, 0
    for span in _in_depth(by_id, parents):
        if span.id == top.id:
            continue
        if span.kind is Kind.OTHER:
            left_out += 1
            continue
        owner, inside = _owner(span, by_id, parents, runs, root)
        if span.kind in (Kind.AGENT, Kind.WORKFLOW):
            runs[span.id] = AgentRun(span, owner, (*owner.path, span.agent_name or span.name))
        elif inside is Kind.OTHER:
            (owner.turns if span.kind is Kind.LLM else owner.calls).append(span)
        elif inside is Kind.LLM and span.kind is Kind.LLM:
            _complete(owner, span, by_id, parents)
        elif inside is Kind.LLM and span.kind is Kind.TOOL:
            owner.calls.append(span)  # tracers that nest a call below the turn that asked for it
    for run in runs.values():
        run.turns.sort(key=lambda s: (s.start_ns, s.id))
        run.calls.sort(key=lambda s: (s.start_ns, s.id))
    return RunTree(tuple(runs.values()), single is None, left_out)


def _calls_recognised(by_id: dict[str, SourceSpan]) -> dict[str, SourceSpan]:
    """Spans without a kind that bear the name of a tool which a model of the run asked for."""
    names = {call.tool for span in by_id.values() for call in span.called or ()}
    return {
        key: replace(span, kind=Kind.TOOL, tool=span.name)
        if span.kind is Kind.OTHER and span.name in names
        else span
        for key, span in by_id.items()
    }


def _parents(by_id: dict[str, SourceSpan]) -> dict[str, str]:
    """Parent of each span among the run's own; a cycle is cut where it closes."""
    parents: dict[str, str] = {}
    for span in by_id.values():
        parent, seen = span.parent, {span.id}
        above = parent
        while above in by_id and above not in seen:
            seen.add(above)
            above = parents.get(above, by_id[above].parent)
        cyclic = above in seen and above != ""
        parents[span.id] = parent if parent in by_id and not cyclic else ""
    return parents


def _made(tops: Sequence[SourceSpan], spans: Sequence[SourceSpan], root_id: str) -> SourceSpan:
    first = tops[0]
    return SourceSpan(
        run=first.run,
        id=root_id,
        parent="",
        kind=Kind.AGENT,
        name="",
        start_ns=min(s.start_ns for s in spans),
        end_ns=max(max(s.end_ns, s.start_ns) for s in spans),
        service=next((s.service for s in spans if s.service), ""),
        conversation=next((s.conversation for s in spans if s.conversation), ""),
        agent_name=next((s.agent_name for s in spans if s.agent_name), ""),
        task=next((s.task for s in tops if s.task), ""),
        origin=first.origin,
    )


def _in_depth(by_id: dict[str, SourceSpan], parents: dict[str, str]) -> Iterator[SourceSpan]:
    """Parents before children, siblings in order of their start."""
    children: dict[str, list[SourceSpan]] = {}
    for span in by_id.values():
        children.setdefault(parents[span.id], []).append(span)
    waiting = list(reversed(children.get("", [])))
    while waiting:
        span = waiting.pop()
        yield span
        waiting += reversed(children.get(span.id, []))


def _owner(
    span: SourceSpan,
    by_id: dict[str, SourceSpan],
    parents: dict[str, str],
    runs: dict[str, AgentRun],
    root: AgentRun,
) -> tuple[AgentRun, Kind]:
    """The agent that a span belongs to, and the nearest turn or call between them, if any."""
    inside = Kind.OTHER
    above = parents[span.id]
    while above:
        if above in runs:
            return runs[above], inside
        kind = by_id[above].kind
        if kind in (Kind.LLM, Kind.TOOL) and inside is Kind.OTHER:
            inside = kind
        above = parents[above]
    return root, inside


def _complete(
    owner: AgentRun, inner: SourceSpan, by_id: dict[str, SourceSpan], parents: dict[str, str]
) -> None:
    above = parents[inner.id]
    while above and by_id[above].kind is not Kind.LLM:
        above = parents[above]
    for i, turn in enumerate(owner.turns):
        if turn.id == above:
            owner.turns[i] = replace(
                turn,
                offered=turn.offered or inner.offered,
                called=inner.called if turn.called is None else turn.called,
                answered=turn.answered or inner.answered,
                stopped=turn.stopped or inner.stopped,
                task=turn.task or inner.task,
                model=turn.model or inner.model,
                input_tokens=turn.input_tokens or inner.input_tokens,
                output_tokens=turn.output_tokens or inner.output_tokens,
            )
