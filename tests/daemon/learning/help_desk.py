"""A help desk to learn in: six subjects, said in many ways, and requests that need two tools."""

from __future__ import annotations

from typing import Any

from agentgym.trajectory import Tool

SUBJECTS = {
    "track_order": ("parcel", "delivery", "package", "shipment", "courier"),
    "issue_refund": ("money back", "refund", "overcharged", "double charge", "reimburse"),
    "reset_password": ("password", "login link", "forgot credentials", "sign in", "locked out"),
    "change_plan": ("upgrade", "downgrade", "yearly billing", "bigger plan", "cheaper plan"),
    "cancel_order": ("cancel order", "stop purchase", "changed my mind", "undo order", "void it"),
    "service_status": ("outage", "is it down", "not loading", "maintenance", "slow dashboard"),
}
OPENINGS = ("please help with", "question about", "hi, I need something:", "urgent,", "again the")


def build_world(world_class: Any, seed: int, **more: Any) -> Any:
    """A world of `conftest` with a tool for every subject."""
    Request = world_class.request_class
    requests = [
        Request(f"{opening} {word}", (tool,))
        for tool, words in SUBJECTS.items()
        for word in words
        for opening in OPENINGS
    ]
    requests += [
        Request(f"{OPENINGS[i]} {SUBJECTS[a][i]} and then {SUBJECTS[b][i]}", (a, b))
        for a, b in [("track_order", "issue_refund"), ("cancel_order", "change_plan")]
        for i in range(5)
    ]
    tools = [Tool(name, f"Deals with {words[0]}.") for name, words in SUBJECTS.items()]
    return world_class(requests, tools, seed=seed, **more)
