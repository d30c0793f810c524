"""CrewAI 1.15: `gym.attach(crew)` or `gym.attach(agent)`, or `Agent(llm=gym.wrap(llm))`.

How it sees the boundaries of runs: `attach` gives the crew and its agents a class derived from
their own, in place (`classes`), whose `kickoff`, `execute_task` and their async twins open a run
around the original (`runs`). The other ways were worse: methods set on the instance end up in
pydantic's `__dict__` and are lost by `Crew.copy`, on which `kickoff_for_each` relies; the hooks
EXECUTION_START and EXECUTION_END do not know about agents and are not called on cancellation; the
event bus calls its handlers later, from threads of its own.

Each agent gets a view of its model (`model`): an object of a derived class over the very state of
the original, so every `isinstance`, setting, event and token count stays what it was. The view
reorders or narrows the tools of a call; CrewAI has no `tool_choice`, so a forced tool is the only
one shown, plus a hint that lives for one call (`force="soft"`). Tool calls come from CrewAI's
PRE_TOOL_CALL and POST_TOOL_CALL hooks, scoped to the run (`calls`).
"""

from __future__ import annotations

from agentgym.integrations.crewai.runs import attach, wrap

__all__ = ["attach", "wrap"]
