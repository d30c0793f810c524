"""The verbs of `agentgym`: one function each, from a call to a printed answer."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.escaping import MAX_PROSE, clean
from agentgym.errors import AgentGymError, DaemonError
from agentgym.proto.v1 import admin_pb2, common_pb2, policy_pb2, reward_pb2, trajectory_pb2
from agentgym.trajectory import slug


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON-ready data: every field, ids in hex, words for enums, NaN as null."""
    fields = message.DESCRIPTOR.fields
    return {f.name: _plain_field(f, message) for f in fields}


def _plain_field(field: Any, message: Message) -> Any:
    value = getattr(message, field.name)
    if field.has_presence and not message.HasField(field.name):
        return None
    if isinstance(value, Mapping):
        return {key: _plain_value(field, item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain_value(field, item) for item in value]
    return _plain_value(field, value)


def _plain_value(field: Any, value: Any) -> Any:
    match value:
        case Message():
            return plain(value)
        case bytes():
            return value.hex()
        case float() if not math.isfinite(value):
            return None
        case int() if field.enum_type is not None:
            return _word(field.enum_type, value)
    return value


def _word(enum: EnumDescriptor, number: int) -> Any:
    """The word of an enum's value: "control" for ASSIGNMENT_CONTROL; unknown ones as numbers."""
    known = enum.values_by_number.get(number)
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    return known.name.removeprefix(prefix).lower() if known else number


def print_json(value: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(value, default=str), flush=True)  # noqa: T201 - command line


def show(arguments: argparse.Namespace, message: Message, table: Any) -> None:
    """An answer as JSON, or as the table that is made of it."""
    if arguments.json:
        print_json(plain(message))
    else:
        tables.show(table(message))


def identifier(text: str, *sizes: int) -> bytes:
    """An id in hex; raises AgentGymError naming the sizes (in bytes) that it may have."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) not in sizes:
        expected = " or ".join(str(2 * size) for size in sizes)
        raise AgentGymError(f"expected an id of {expected} hex digits, got {text!r}")
    return value


# ---------------------------------------------------------------- reading


def status(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym status`."""
    reply = client.call(client.admin.Status, admin_pb2.StatusRequest())
    show(arguments, reply, tables.status)


def trajectories(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym trajectories`."""
    request = trajectory_pb2.ListTrajectoriesRequest(
        agent=arguments.agent, key=arguments.key, state=arguments.state, limit=arguments.limit
    )
    show(arguments, client.call(client.trajectories.List, request), tables.trajectories)


def tail(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym tail`."""
    request = trajectory_pb2.TailRequest(agent=arguments.agent)
    stream = client.stream(client.trajectories.Tail, request)
    for summary in _limited(stream, arguments.limit):
        if arguments.json:
            print_json(plain(summary))
        else:
            print(tables.line(summary), flush=True)  # noqa: T201 - command line


def _limited(stream: Iterator[Any], limit: int) -> Iterator[Any]:
    for i, item in enumerate(stream, 1):
        yield item
        if i == limit:
            return


def explain(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym explain ID`."""
    request = trajectory_pb2.ExplainRequest(id=identifier(arguments.id, 8, 16))
    show(arguments, client.call(client.trajectories.Explain, request), tables.explanations)


def policy_list(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy list`."""
    request = policy_pb2.ListPoliciesRequest(agent=arguments.agent)
    show(arguments, client.call(client.policies.List, request), tables.policies)


# ---------------------------------------------------------------- changing


def reward(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym reward VALUE --trajectory ID | --key KEY`, or `--revoke REWARD_ID`."""
    if arguments.revoke:
        revocation = reward_pb2.RevokeRequest(reward_id=arguments.revoke, reason=arguments.reason)
        reply = client.call(client.rewards.Revoke, revocation)
        say(
            arguments,
            reply,
            f"revoked {arguments.revoke} of trajectory {reply.trajectory_id.hex()}",
        )
        return
    message = reward_pb2.Reward(
        trajectory_id=identifier(arguments.trajectory, 16) if arguments.trajectory else b"",
        key=arguments.key or "",
        agent=arguments.agent,
        value=arguments.value,
        name=arguments.name,
        source=arguments.source,
        idempotency_key=arguments.idempotency_key,
        reason=arguments.reason,
        all=arguments.all,
    )
    request = reward_pb2.ReportRequest(rewards=[message])
    result = client.call(client.rewards.Report, request).results[0]
    if result.error:
        raise DaemonError(f"{result.error} ({result.code})", code=result.code)
    ids = ", ".join(i.hex() for i in result.trajectory_ids)
    again = " (already known, nothing changed)" if result.duplicate else ""
    say(arguments, result, f"reward {result.reward_id} for trajectory {ids}{again}")


def policy_promote(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy promote VERSION`."""
    request = policy_pb2.PromoteRequest(version=arguments.version, reason=arguments.reason)
    _changed(arguments, client.call(client.policies.Promote, request))


def policy_rollback(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy rollback AGENT`."""
    request = policy_pb2.RollbackRequest(
        scope=_scope(arguments.agent, arguments.agent_name), reason=arguments.reason
    )
    _changed(arguments, client.call(client.policies.Rollback, request))


def policy_pin(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy pin VERSION` or `--unpin AGENT`."""
    if bool(arguments.version) == bool(arguments.unpin):
        raise AgentGymError("expected either a version to pin or --unpin AGENT")
    request = policy_pb2.PinRequest(
        version=arguments.version,
        unpin=bool(arguments.unpin),
        scope=_scope(arguments.unpin, arguments.agent_name),
        reason=arguments.reason,
    )
    _changed(arguments, client.call(client.policies.Pin, request))


def _scope(agent: str, agent_name: str) -> common_pb2.Scope:
    return common_pb2.Scope(agent=agent, agent_name=slug(agent_name))


def _changed(arguments: argparse.Namespace, reply: policy_pb2.ChangeResponse) -> None:
    say(arguments, reply, f"live: {reply.version or 'none'} (before: {reply.previous or 'none'})")


def say(arguments: argparse.Namespace, message: Message, text: str) -> None:
    """An answer as JSON, or one line about it."""
    if arguments.json:
        print_json(plain(message))
    else:
        sys.stdout.write(clean(text, limit=MAX_PROSE) + "\n")
