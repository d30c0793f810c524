"""What an import would do: past runs as trajectories, rewards, and everything that is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentgym.items import RewardItem
from agentgym.trajectory import Tool
from agentgym_daemon.importing import judging, records, steps, tree
from agentgym_daemon.importing.judging import Mapped
from agentgym_daemon.importing.model import ImportFileError, Loaded, Problems, Score, SourceSpan
from agentgym_daemon.importing.records import PastTrajectory
from agentgym_daemon.importing.tree import RunTree
from agentgym_daemon.ingest.foreign import Kind


@dataclass(frozen=True, slots=True)
class Options:
    """What the user decides about an import."""

    agent: str = ""
    agent_name: str = ""
    mappings: tuple[Mapped, ...] = ()
    tools: Mapping[str, Tool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Trajectories in order of their start, and rewards for runs that were imported before."""

    trajectories: tuple[PastTrajectory, ...]
    later_rewards: tuple[RewardItem, ...]
    problems: Problems
    undefined: tuple[str, ...]  # tools of which only the name is known

    def plain(self) -> dict[str, Any]:
        """Figures as JSON values."""
        agents: dict[str, Counter[str]] = {}
        for trajectory in self.trajectories:
            figures = agents.setdefault(trajectory.agent, Counter())
            figures.update(
                runs=1,
                steps=len(trajectory.steps),
                rewarded=bool(trajectory.rewards),
                calls=sum("execute_tool" in s.name for s in trajectory.spans),
                inferred_steps=trajectory.inferred,
                unclear_turns=trajectory.unclear,
            )
        names: dict[str, set[str]] = {}
        for trajectory in self.trajectories:
            names.setdefault(trajectory.agent, set()).update(trajectory.scopes)
        return {
            "agents": [
                {"agent": agent, "names": sorted(names[agent]), **figures}
                for agent, figures in sorted(agents.items())
            ],
            "later_rewards": len(self.later_rewards),
            "undefined_tools": list(self.undefined),
            "problems": self.problems.plain(),
        }


def make(loaded: Loaded, options: Options) -> Plan:
    """The plan for everything that was read; raises ImportFileError if no agent can be named."""
    problems = loaded.problems
    runs = _runs(loaded.spans, problems)
    trees = {
        run: tree.build(spans, root_id=f"agentgym root of {run}") for run, spans in runs.items()
    }
    agents = {run: _agent(run, built, options.agent) for run, built in trees.items()}
    catalogue = steps.Catalogue(((agents[r], built) for r, built in trees.items()), options.tools)
    scores = _resolved(loaded, problems)
    roots = {run: built.root.span.id for run, built in trees.items()}
    judged = judging.judge(scores, options.mappings, roots, problems)
    trajectories = [
        records.record(
            run,
            built,
            [steps.play(agent, catalogue) for agent in built.agents],
            judged.get(run, ()),
            agent=agents[run],
            agent_name=options.agent_name,
        )
        for run, built in trees.items()
    ]
    unclear = sum(t.unclear for t in trajectories)
    problems.add("turns that do not say what they asked for: no step", times=unclear)
    return Plan(
        tuple(sorted(trajectories, key=lambda t: (t.start_ns, t.id))),
        tuple(
            records.reward(run, one, options.agent)
            for run, group in judged.items()
            if run not in trees
            for one in group
        ),
        problems,
        tuple(sorted(catalogue.unknown)),
    )


def _runs(spans: Sequence[SourceSpan], problems: Problems) -> dict[str, list[SourceSpan]]:
    """Spans by run, each once; runs that are none of ours to take are left out."""
    found: dict[str, dict[str, SourceSpan]] = {}
    for span in spans:
        found.setdefault(span.run, {}).setdefault(span.id, span)
    runs = {}
    for run, by_id in found.items():
        if any(span.ours for span in by_id.values()):
            problems.add("runs that AgentGym itself recorded", run)
        elif not any(span.kind in (Kind.LLM, Kind.TOOL) for span in by_id.values()):
            problems.add("traces without a turn of a model or a tool call", run)
        else:
            runs[run] = list(by_id.values())
    return runs


def _agent(run: str, built: RunTree, given: str) -> str:
    spans = [span for a in built.agents for span in (a.span, *a.turns, *a.calls)]
    services = (span.service for span in spans if span.service)
    root = built.root.span
    found = given or next(services, "") or root.agent_name or root.name
    if not found:
        raise ImportFileError(
            f"run {run} does not say which agent it is of; say --agent NAME, the name given to "
            "AgentGym(agent=NAME)"
        )
    return found[:200]


def _resolved(loaded: Loaded, problems: Problems) -> list[Score]:
    """Scores that name only a span, with the run of that span."""
    owners = {span.id: span.run for span in loaded.spans}
    resolved = []
    for score in loaded.scores:
        run = score.run or owners.get(score.span, "")
        if run:
            resolved.append(replace(score, run=run))
        else:
            problems.add("annotations of spans that no file has", f"span {score.span}")
    return resolved
