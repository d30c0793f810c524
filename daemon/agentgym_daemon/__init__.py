"""The daemon of AgentGym: durable ingest, rewards, learning, policies; `app` wires the rooms."""
