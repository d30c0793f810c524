"""The verbs of the registry: names, notes, the past, differences, bundles, quarantine, audit."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agentgym.cli import tables
from agentgym.cli.client import Client
from agentgym.cli.verbs import plain, print_json, say, show
from agentgym.errors import AgentGymError, DaemonError
from agentgym.policy.trust import read_keys
from agentgym.proto.v1 import common_pb2, log_pb2, registry_pb2
from agentgym.trajectory import slug

_LONG_S = 600.0
"""For what looks at everything: a difference, a bundle, the whole log."""
_CHUNK_BYTES = 512 * 1024
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_ALONE = "(left alone)"

Action = Callable[[str, str], argparse.ArgumentParser]
_VERSION = "for example p-000003, or an alias"


def add_registry(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], action: Action
) -> None:
    """Adds the actions below `policy`, which `action` makes, and `audit`."""
    _add_names(action)
    _add_looks(action)
    _add_files(action)
    audit = commands.add_parser("audit", help="who changed what, and whether the record is whole")
    looks = audit.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, run, help_text in (
        ("list", audit_list, "the newest changes: when, who, what, why"),
        ("verify", audit_verify, "recompute the chain of changes from the daemon's log"),
    ):
        look = looks.add_parser(name, help=help_text, description=help_text)
        look.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        look.set_defaults(run=run)
        if name == "list":
            look.add_argument("--limit", type=int, default=50, help="how many; 50 unless told")


def _add_names(action: Action) -> None:
    naming = action("alias", "give a version a name that commands take, or take it away")
    naming.add_argument("version", help=_VERSION)
    naming.add_argument("alias", nargs="?", default="", help="the name, for example stable")
    naming.add_argument("--remove", metavar="AGENT", default="", help="ALIAS of this agent ends")
    naming.add_argument("--agent-name", default="", help="needed if the agent has several scopes")
    naming.set_defaults(run=policy_alias)
    note = action("note", "write something down beside a version; '' deletes it")
    note.add_argument("version", help=_VERSION)
    note.add_argument("text", help="the note")
    note.set_defaults(run=policy_note)
    quarantine = action("quarantine", "keep a version from going live; roll back if it is")
    quarantine.add_argument("version", help=_VERSION)
    quarantine.set_defaults(run=policy_quarantine)
    release = action("release", "end a quarantine")
    release.add_argument("version", help=_VERSION)
    release.set_defaults(run=policy_release)


def _add_looks(action: Action) -> None:
    diff = action("diff", "which stored requests two versions would treat differently")
    diff.add_argument("before", help=_VERSION)
    diff.add_argument("after", help=_VERSION)
    diff.add_argument("--trajectories", type=int, default=500, help="the newest are compared")
    diff.add_argument("--examples", type=int, default=10, help="how many are shown")
    diff.set_defaults(run=policy_diff)
    at = action("at", "which version was live at a time")
    at.add_argument("time", help="ISO 8601, for example 2026-11-21T14:00, or ago: 45m, 2h, 3d")
    at.add_argument("--agent", default="", help="only this agent's")
    at.set_defaults(run=policy_at)


def _add_files(action: Action) -> None:
    export = action("export", "write a version into a signed file")
    export.add_argument("version", help=_VERSION)
    export.add_argument("file", type=Path, help="where to; must not exist")
    export.set_defaults(run=policy_export)
    bundle = action("import", "verify a signed file and keep its policy as a candidate")
    bundle.add_argument("file", type=Path, help="what `policy export` wrote")
    bundle.add_argument("--trust", type=Path, help="signing.pub of where it comes from")
    bundle.add_argument("--agent", default="", help="refuse the policy of any other agent")
    bundle.set_defaults(run=policy_import)
    prune = action("prune", "delete files of versions that are done with")
    prune.add_argument("--keep", type=int, default=10, help="of those, the newest stay")
    prune.add_argument("--dry-run", action="store_true", help="only say which")
    prune.add_argument("--agent", default="", help="only this agent's")
    prune.set_defaults(run=policy_prune)


# ---------------------------------------------------------------- names


def policy_alias(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy alias VERSION NAME`, or `alias NAME --remove AGENT`."""
    if bool(arguments.alias) == bool(arguments.remove):
        raise AgentGymError("expected VERSION and NAME, or NAME and --remove AGENT")
    if arguments.remove:
        scope = common_pb2.Scope(agent=arguments.remove, agent_name=slug(arguments.agent_name))
        request = registry_pb2.AliasRequest(
            alias=arguments.version, scope=scope, reason=arguments.reason
        )
        reply = client.call(client.registry.Alias, request)
        say(arguments, reply, f"{arguments.version} means nothing now (before: {reply.version})")
        return
    request = registry_pb2.AliasRequest(
        version=arguments.version, alias=arguments.alias, reason=arguments.reason
    )
    reply = client.call(client.registry.Alias, request)
    say(arguments, reply, f"{arguments.alias} means {reply.version}")


def policy_note(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy note VERSION TEXT`."""
    request = registry_pb2.NoteRequest(version=arguments.version, note=arguments.text)
    reply = client.call(client.registry.Note, request)
    say(arguments, reply, f"{reply.version}: {reply.note or 'no note'}")


def policy_quarantine(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy quarantine VERSION`."""
    request = registry_pb2.QuarantineRequest(version=arguments.version, reason=arguments.reason)
    reply = client.call(client.registry.Quarantine, request)
    back = f"; it was live, now: {reply.live or 'none'}" if reply.rolled_back else ""
    say(arguments, reply, f"{reply.policy.version} is quarantined{back}")


def policy_release(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy release VERSION`."""
    request = registry_pb2.QuarantineRequest(version=arguments.version, reason=arguments.reason)
    reply = client.call(client.registry.Release, request)
    say(arguments, reply, f"{reply.version} may go live again; it is {reply.status}")


# ---------------------------------------------------------------- looking


def policy_diff(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy diff A B`."""
    request = registry_pb2.DiffRequest(
        before=arguments.before,
        after=arguments.after,
        trajectories=_count("--trajectories", arguments.trajectories),
        examples=_count("--examples", arguments.examples),
    )
    show(arguments, client.call(client.registry.Diff, request, _LONG_S), _difference)


def policy_at(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy at TIME`."""
    request = registry_pb2.LiveAtRequest(
        at_unix_nano=parse_time(arguments.time, time.time()), agent=arguments.agent
    )
    show(arguments, client.call(client.registry.LiveAt, request), _live_then)


def parse_time(text: str, now_s: float) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time (local, if it names no zone), or of `2h` ago.

    Raises AgentGymError.
    """
    ago = _AGO.fullmatch(text.strip().removesuffix("ago").strip())
    if ago:
        seconds = now_s - float(ago[1]) * _SECONDS[ago[2]]
    else:
        try:
            seconds = datetime.fromisoformat(text.strip()).timestamp()
        except (ValueError, OverflowError):
            raise AgentGymError(
                f"expected a time like 2026-11-21T14:00 or 2h (s, m, h, d, w ago), got {text!r}"
            ) from None
    if not 0 <= seconds < 2**33:
        raise AgentGymError(f"expected a time after 1970, got {text!r}")
    return int(seconds * 1_000_000) * 1000


def _difference(reply: registry_pb2.DiffResponse) -> RenderableType:
    share = reply.changed / reply.steps if reply.steps else 0.0
    head = tables.prose(
        f"{reply.before} -> {reply.after}: {reply.changed} of {reply.steps} first choices change "
        f"({share:.1%}), KL {reply.kl:.4f}, over {reply.trajectories} trajectories\n"
    )
    counts = tables.untitled(("first choice", reply.before, reply.after, "change"))
    for t in reply.tools:
        change = f"{int(t.after) - int(t.before):+d}"
        counts.add_row(t.tool or _ALONE, str(t.before), str(t.after), change)
    changed = tables.untitled(("trajectory", "step", reply.before, reply.after))
    for e in reply.examples:
        changed.add_row(e.trajectory_id.hex(), str(e.step), e.before or _ALONE, e.after or _ALONE)
    return Group(head, counts, Text(), changed)


def _live_then(reply: registry_pb2.LiveAtResponse) -> RenderableType:
    columns = ("agent", "name", "live", "since", "by", "reason")
    table = tables.untitled(columns)
    for then in reply.live:
        table.add_row(
            then.scope.agent,
            then.scope.agent_name,
            (then.version or "none") + (" (pinned)" if then.pinned else ""),
            tables.time_text(then.since_unix_nano),
            then.actor,
            then.reason or "-",
        )
    return table


# ---------------------------------------------------------------- files


def policy_export(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy export VERSION FILE`."""
    request = registry_pb2.ExportRequest(version=arguments.version)
    stream = client.stream(client.registry.Export, request)
    size = total = 0
    try:
        with _fresh(arguments.file) as file:
            for chunk in stream:
                size += file.write(chunk.data)
                total = chunk.total
        if not size or size != total:
            raise AgentGymError(f"the bundle was cut off after {size} bytes; try again")
    except FileExistsError:
        raise AgentGymError(f"{arguments.file} exists; choose another name") from None
    except OSError as error:
        arguments.file.unlink(missing_ok=True)
        raise AgentGymError(f"{arguments.file} cannot be written: {error.strerror}") from error
    except AgentGymError:
        arguments.file.unlink(missing_ok=True)
        raise
    if arguments.json:
        print_json({"file": str(arguments.file), "bytes": size})
    else:
        tables.show(tables.prose(f"{arguments.file}: {size} bytes"))


def _fresh(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def policy_import(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy import FILE`."""
    head = registry_pb2.ImportRequest(
        trusted_keys=_trusted(arguments.trust), agent=arguments.agent, reason=arguments.reason
    )
    try:
        with arguments.file.open("rb") as file:
            reply = client.call(client.registry.Import, _parts(head, file), _LONG_S)
    except OSError as error:
        raise AgentGymError(f"{arguments.file} cannot be read: {error.strerror}") from error
    say(arguments, reply, f"{reply.version} of {reply.scope.agent} is a {reply.status}")


def _parts(head: registry_pb2.ImportRequest, file: Any) -> Iterator[registry_pb2.ImportRequest]:
    yield head
    while data := file.read(_CHUNK_BYTES):
        yield registry_pb2.ImportRequest(data=data)


def _trusted(path: Path | None) -> Iterable[bytes]:
    if path is None:
        return ()
    try:
        keys = read_keys(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise AgentGymError(f"{path} holds no public key: {error}") from error
    if not keys:
        raise AgentGymError(f"{path} holds no public key; expected the signing.pub of the origin")
    return keys.values()


def policy_prune(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym policy prune`."""
    request = registry_pb2.PruneRequest(
        keep=_count("--keep", arguments.keep), dry_run=arguments.dry_run, agent=arguments.agent
    )
    reply = client.call(client.registry.Prune, request, _LONG_S)
    size = sum(pruned.size for pruned in reply.pruned)
    names = ", ".join(pruned.version for pruned in reply.pruned) or "nothing"
    verb = "would delete" if arguments.dry_run else "deleted"
    say(arguments, reply, f"{verb} {names} ({size // 1024} KB)")


# ---------------------------------------------------------------- audit


def audit_list(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym audit list`."""
    request = registry_pb2.ListAuditRequest(limit=_count("--limit", arguments.limit))
    show(arguments, client.call(client.registry.ListAudit, request), _changes)


def _changes(reply: registry_pb2.ListAuditResponse) -> RenderableType:
    table = tables.untitled(("no", "time", "who", "what", "agent", "version", "why"))
    for entry in reply.entries:
        change = entry.change
        table.add_row(
            str(entry.audit.number),
            tables.time_text(entry.received_unix_nano),
            change.actor or "-",
            _what(change),
            change.scope.agent or "-",
            change.version or "-",
            change.reason or "-",
        )
    return table


def _what(change: log_pb2.PolicyChange) -> str:
    kinds = log_pb2.PolicyChange.Kind
    known = change.kind in kinds.values()
    name = kinds.Name(change.kind).removeprefix("KIND_").lower() if known else str(change.kind)
    if change.HasField("experiment"):
        return f"{name} {change.experiment.name}"
    if change.alias:
        return f"{name} {change.alias}"
    if change.stage:
        place = common_pb2.AgentStage(stage=change.stage, canary_share=change.canary_share)
        return f"{name} {tables.rung(place)}"
    return name


def audit_verify(client: Client, arguments: argparse.Namespace) -> None:
    """`agentgym audit verify`; exit code 1 if the chain is broken."""
    reply = client.call(client.registry.VerifyAudit, registry_pb2.VerifyAuditRequest(), _LONG_S)
    if arguments.json:
        print_json(plain(reply))
    elif reply.ok:
        head = f"the last is {reply.head.number}, {reply.head.hash.hex()}" if reply.changes else ""
        older = (
            f", {reply.before_chain} from before there was a chain" if reply.before_chain else ""
        )
        say(arguments, reply, f"{reply.changes} changes, all links hold{older}; {head}")
    if not reply.ok:
        raise DaemonError(
            f"the chain of changes is broken at change {reply.broken_number}: {reply.broken}",
            code="DATA_LOSS",
        )


def _count(option: str, value: int) -> int:
    if not 0 <= value < 2**31:
        raise AgentGymError(f"{option}: expected a whole number from 0, got {value}")
    return value
