"""`agentgym rewards`: what became of rewards, and who gives them."""

from __future__ import annotations

import argparse
import math

from rich.console import Group, RenderableType
from rich.text import Text

from agentgym.cli.client import Client
from agentgym.cli.tables import time_text, untitled
from agentgym.cli.verbs import identifier, show
from agentgym.errors import AgentGymError
from agentgym.proto.v1 import reward_pb2

_REWARD_ID = ("r-", "e-")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb with its actions."""
    rewards = commands.add_parser("rewards", help="what became of rewards, and who gives them")
    actions = rewards.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", help="a trajectory's rewards: which count, why, and where they were learned from"
    )
    show.add_argument("id", help="hex id of a trajectory, or the id of a reward")
    show.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    show.set_defaults(run=show_rewards)
    listing = actions.add_parser(
        "sources", help="who judges, how much of the training that is, and what is odd about it"
    )
    listing.add_argument("--agent", default="", help="only this agent's")
    listing.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    listing.set_defaults(run=list_sources)


def value(text: str) -> float:
    """The value of a reward: a number, or a thumb; the daemon says which numbers can be meant."""
    if text in ("up", "down"):
        return float(text == "up")
    try:
        return float(text)
    except ValueError:
        expected = f"expected up, down or a number in [0, 1], got {text!r}"
        raise argparse.ArgumentTypeError(expected) from None


def show_rewards(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym rewards show ID`."""
    text: str = arguments.id
    if text.startswith(_REWARD_ID):
        request = reward_pb2.ShowRewardsRequest(reward_id=text)
    else:
        try:
            request = reward_pb2.ShowRewardsRequest(trajectory_id=identifier(text, 16))
        except AgentGymError as error:
            raise AgentGymError(f"{error}, or the id of a reward (r-... or e-...)") from None
    show(arguments, client.call(client.rewards.Show, request), _rewards)


def list_sources(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym rewards sources`."""
    request = reward_pb2.RewardSourcesRequest(agent=arguments.agent)
    show(arguments, client.call(client.rewards.Sources, request), _sources)


def _rewards(reply: reward_pb2.ShowRewardsResponse) -> RenderableType:
    columns = ("reward", "id", "received", "name", "source", "by", "standing", "reason")
    table = untitled(columns)
    for shown in reply.rewards:
        given = shown.reward
        table.add_row(
            f"{given.value:.2f}",
            shown.reward_id,
            time_text(shown.received_unix_nano),
            given.name,
            given.source,
            given.actor or "-",
            shown.standing,
            given.reason,
        )
    trained = untitled(("version", "training", "verdict", "part"))
    for one in reply.trained_in:
        trained.add_row(one.version or "-", time_text(one.time_unix_nano), one.verdict, one.part)
    return Group(Text(_head(reply)), table, Text(), trained)


def _head(reply: reward_pb2.ShowRewardsResponse) -> str:
    outcome = f"{reply.outcome:.3f}" if reply.HasField("outcome") else "none"
    if reply.HasField("training_reward"):
        learned = (
            f"{reply.training_reward:.3f} (cost takes {reply.cost:.1%}), weight {reply.weight:.3f}"
        )
    else:
        learned = "nothing now"
    return (
        f"trajectory {reply.trajectory_id.hex()} of {reply.agent}, {reply.state}\n"
        f"outcome {outcome} by {reply.aggregation}; learned: {learned}\n"
    )


def _sources(reply: reward_pb2.RewardSourcesResponse) -> RenderableType:
    columns = ("agent", "source", "n", "mean", "given", "trained", "weight", "last", "flags")
    table = untitled(columns)
    for source in reply.sources:
        flags = [*(["capped"] if source.capped else []), *source.alarms]
        table.add_row(
            source.agent,
            source.source,
            str(source.rewards),
            "-" if math.isnan(source.mean) else f"{source.mean:.2f}",
            f"{source.share_given:.1%}",
            f"{source.share_trained:.1%}",
            f"{source.weight:g}",
            time_text(source.last_unix_nano),
            "; ".join(flags) or "-",
        )
    return table
