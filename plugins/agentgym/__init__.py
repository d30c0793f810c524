"""AgentGym: agents in production that get better at choosing tools by themselves.

`AgentGym(agent="support-bot")` and one line per framework; see the README. Importing this package
loads no framework, and neither numpy, grpc nor opentelemetry.
"""

from __future__ import annotations

from agentgym.gym import AgentGym

__all__ = ["AgentGym"]
