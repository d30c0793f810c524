"""Parses, calls, prints. Exit codes: 0 ok, 1 refused by the daemon, 2 usage, 69 daemon absent.

Every reading verb takes `--json` and then prints one object on stdout (`tail`: one per line).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from agentgym.cli import rewards, verbs
from agentgym.cli.client import Client
from agentgym.cli.escaping import MAX_PROSE, clean
from agentgym.cli.evaluation import add_evaluation
from agentgym.cli.experiments import add_experiments
from agentgym.cli.ladder import add_ladder
from agentgym.cli.registry import add_registry
from agentgym.cli.watch import add_watch
from agentgym.config import resolve
from agentgym.errors import AgentGymError, ConfigError, DaemonError
from agentgym.version import VERSION

OK, REFUSED, USAGE, DAEMON_ABSENT = 0, 1, 2, 69


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; docs/cli.md is checked against it."""
    parser = argparse.ArgumentParser(
        prog="agentgym", description="Looks into a running agentgym-daemon and steers it."
    )
    parser.add_argument("--version", action="version", version=f"agentgym {VERSION}")
    parser.add_argument("--home", help="directory shared with the daemon (AGENTGYM_HOME)")
    parser.add_argument("--endpoint", help="the daemon's address (AGENTGYM_ENDPOINT)")
    parser.add_argument("--token-file", help="file with the bearer token (AGENTGYM_TOKEN_FILE)")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_reading(commands)
    _add_changing(commands)
    add_ladder(commands)
    add_evaluation(commands)
    add_watch(commands)
    add_experiments(commands)
    rewards.add(commands)
    return parser


def _add_reading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def reading(name: str, help_text: str) -> argparse.ArgumentParser:
        verb = commands.add_parser(name, help=help_text, description=help_text)
        verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        return verb

    status = reading(
        "status", "the daemon, its policies, their reliability and the control group's"
    )
    status.set_defaults(run=verbs.status)
    tail = reading("tail", "trajectories as they close; ends with Ctrl-C or after --limit")
    tail.add_argument("--agent", default="", help="only this agent's")
    tail.add_argument("--limit", type=int, default=0, help="end after this many")
    tail.set_defaults(run=verbs.tail)
    listing = reading("trajectories", "the newest trajectories")
    listing.add_argument("--agent", default="", help="only this agent's")
    listing.add_argument("--key", default="", help="only those with this key")
    listing.add_argument("--state", default="", choices=["", "open", "closed", "incomplete"])
    listing.add_argument("--limit", type=int, default=20, help="how many, at most 1,000")
    listing.set_defaults(run=verbs.trajectories)
    explain = reading("explain", "why a decision fell as it did: arms, scores and their parts")
    explain.add_argument("id", help="hex id of a decision or of a trajectory")
    explain.set_defaults(run=verbs.explain)


def _add_changing(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reward = commands.add_parser("reward", help="say how a trajectory turned out")
    reward.add_argument(
        "value", type=rewards.value, help="between 0 (failed) and 1 (went well), or up or down"
    )
    which = reward.add_mutually_exclusive_group(required=True)
    which.add_argument("--trajectory", help="hex id of the trajectory")
    which.add_argument("--key", help="the trajectory's key; the latest one with it is meant")
    which.add_argument("--revoke", metavar="REWARD_ID", help="take an earlier reward back")
    reward.add_argument("--agent", default="", help="narrows the search by key")
    reward.add_argument("--all", action="store_true", help="by key: every unrewarded match")
    reward.add_argument("--name", default="", help="what was judged")
    reward.add_argument("--source", default="cli", help="who judged")
    reward.add_argument("--idempotency-key", default="", help="the same key never counts twice")
    reward.add_argument("--reason", default="", help="a note that stays with the reward")
    reward.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    reward.set_defaults(run=verbs.reward)
    policy = commands.add_parser("policy", help="list policy versions and change the live one")
    actions = policy.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, help_text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=help_text, description=help_text)
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        if name != "list":
            parser.add_argument("--reason", default="", help="a note for the record")
        return parser

    listing = action("list", "all versions with their state and lineage")
    listing.add_argument("--agent", default="", help="only this agent's")
    listing.set_defaults(run=verbs.policy_list)
    promote = action("promote", "make a version live now")
    promote.add_argument("version", help="for example p-000003")
    promote.set_defaults(run=verbs.policy_promote)
    rollback = action("rollback", "go back to the version that was live before")
    rollback.add_argument("agent", help="the agent")
    rollback.add_argument("--agent-name", default="", help="needed if the agent has several scopes")
    rollback.set_defaults(run=verbs.policy_rollback)
    pin = action("pin", "keep a version live until --unpin; training goes on")
    pin.add_argument("version", nargs="?", default="", help="for example p-000003")
    pin.add_argument("--unpin", metavar="AGENT", default="", help="release an agent's pin")
    pin.add_argument("--agent-name", default="", help="needed if the agent has several scopes")
    pin.set_defaults(run=verbs.policy_pin)
    add_registry(commands, action)


def _complain(error: Exception) -> None:
    text = clean(str(error), limit=MAX_PROSE, lines=True)
    print(f"agentgym: {text}", file=sys.stderr)  # noqa: T201 - command line


def main(argv: Sequence[str] | None = None) -> int:
    """The `agentgym` command."""
    arguments = build_parser().parse_args(argv)
    try:
        config = resolve(
            {
                "home": arguments.home,
                "endpoint": arguments.endpoint,
                "token_file": arguments.token_file,
            }
        )
        if "alone" in arguments:  # must work without a daemon, too
            arguments.alone(config, arguments)
            return OK
        with Client(config) as client:
            arguments.run(client, arguments)
    except ConfigError as error:
        _complain(error)
        return USAGE
    except DaemonError as error:
        _complain(error)
        return DAEMON_ABSENT if error.code == "UNAVAILABLE" else REFUSED
    except AgentGymError as error:
        _complain(error)
        return REFUSED
    except KeyboardInterrupt:
        return OK
    except BrokenPipeError:
        # The reader has seen enough (`agentgym tail | head`); nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return OK
