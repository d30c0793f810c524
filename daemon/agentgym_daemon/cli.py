"""The command line of the daemon: parse, call, print.

Exit codes: 0 ok, 1 failed, 2 usage or settings, 69 daemon absent, 75 directory held.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agentgym_daemon.config import SETTINGS, DaemonConfig, resolve
from agentgym_daemon.errors import ConfigError, DaemonError, DirectoryHeldError

if TYPE_CHECKING:
    from agentgym_daemon.doctor import Check

OK, FAILED, USAGE, HELD = 0, 1, 2, 75
NEEDS_EXTRA = frozenset(
    ("duckdb", "torch", "psutil", "zstandard", "safetensors", "pydantic", "prometheus_client")
)
GUESTS = {
    "demo": ("agentgym_daemon.demo.cli", "three agents learn to choose tools while they run"),
    "bench": ("agentgym_daemon.bench.cli", "measure, by name"),
    "import": ("agentgym_daemon.importing.cli", "past traces of other tools as experience"),
}
"""Verbs with a command line of their own: module with `main(argv) -> int`, and help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in GUESTS:
            return _guest(arguments[0], arguments[1:])
        options = build_parser().parse_args(arguments)
        return int(options.run(options))
    except DirectoryHeldError as error:
        return _fail(str(error), HELD)
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except DaemonError as error:
        return _fail(str(error), FAILED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in NEEDS_EXTRA:
            raise
        return _fail(f"{package} is not installed; run: pip install 'agentgym[daemon]'", USAGE)
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        return _fail(f"{error.filename or ''}: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return 130


def _fail(message: str, code: int) -> int:
    print(f"agentgym-daemon: {message}", file=sys.stderr)
    return code


def _guest(verb: str, arguments: list[str]) -> int:
    name, _ = GUESTS[verb]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        return _fail(f"'{verb}' is not part of this installation", USAGE)
    return int(module.main(arguments))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentgym-daemon",
        description="Stores what agents do, learns which tools are right, and tells the agents.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage, 69 daemon absent, 75 directory held.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    serve = _verb(verbs, "serve", "run the daemon", _serve)
    for setting in SETTINGS:
        if setting.name != "home":
            flag = "--" + setting.name.replace("_", "-")
            serve.add_argument(flag, metavar="VALUE", help=_help(setting.help, setting.default))
    serve.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    rebuild = _verb(verbs, "rebuild", "derive the database from the log again", _rebuild)
    rebuild.add_argument("--json", action="store_true", help="print one JSON object")
    doctor = _verb(verbs, "doctor", "check this installation", _doctor)
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    _add_token_verbs(verbs)
    for verb, (_, help_text) in GUESTS.items():
        verbs.add_parser(verb, help=help_text, add_help=False)
    return parser


def _help(text: str, default: Any) -> str:
    return (text if default is None else f"{text} Default {default}.").replace("%", "%%")


def _verb(
    verbs: Any, name: str, help_text: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--home", metavar="DIR", help=SETTINGS[0].help)
    parser.set_defaults(run=run)
    return parser


def _add_token_verbs(verbs: Any) -> None:
    token = verbs.add_parser("token", help="tokens with fewer rights", description="extra tokens")
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = _verb(actions, "add", "make a token; it is shown once", _token_add)
    add.add_argument("name")
    add.add_argument(
        "--scope",
        action="append",
        required=True,
        metavar="SCOPE",
        help="ingest, reward, read or admin; may be repeated",
    )
    listing = _verb(actions, "list", "list the extra tokens", _token_list)
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    remove = _verb(actions, "remove", "forget a token", _token_remove)
    remove.add_argument("name")


def _config(options: argparse.Namespace) -> DaemonConfig:
    given = vars(options)
    return resolve({s.name: given.get(s.name) for s in SETTINGS})


def _serve(options: argparse.Namespace) -> int:
    from agentgym_daemon.serving import serve

    logging.basicConfig(
        level=options.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )

    def ready(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return serve(_config(options), ready, lambda: _config(options))


def _rebuild(options: argparse.Namespace) -> int:
    from agentgym_daemon.rebuilding import rebuild

    result = rebuild(_config(options))
    if options.json:
        print(json.dumps(result.plain()))
        return OK
    print(f"rebuilt from {result.log_bytes} bytes of log")
    for table, content_hash in result.after.items():
        print(f"  {table:20} {result.compare(table):10} {content_hash}")
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from agentgym_daemon.doctor import Verdict, examine

    checks = examine(_config(options))
    failed = any(check.verdict is Verdict.FAIL for check in checks)
    if options.json:
        print(json.dumps({"ok": not failed, "checks": [check.plain() for check in checks]}))
    else:
        for check in checks:
            print(_line(check))
    return FAILED if failed else OK


def _line(check: Check) -> str:
    advice = f" -> {check.advice}" if check.advice else ""
    return f"{check.verdict:5}{check.name}: {check.found}{advice}"


def _token_add(options: argparse.Namespace) -> int:
    from agentgym_daemon.lock import prepare
    from agentgym_daemon.rpc.tokens import Tokens

    home = _config(options).home
    prepare(home)
    print(Tokens(home).add(options.name, options.scope))
    return OK


def _token_list(options: argparse.Namespace) -> int:
    from agentgym_daemon.rpc.tokens import Tokens

    tokens = Tokens(_config(options).home).list()
    if options.json:
        rows = [{"name": token.name, "scopes": sorted(token.scopes)} for token in tokens]
        print(json.dumps({"tokens": rows}))
        return OK
    for token in tokens:
        print(f"{token.name:20} {', '.join(sorted(token.scopes))}")
    return OK


def _token_remove(options: argparse.Namespace) -> int:
    from agentgym_daemon.rpc.tokens import Tokens

    Tokens(_config(options).home).remove(options.name)
    return OK


if __name__ == "__main__":
    sys.exit(main())
