"""`agentgym-daemon demo`: the whole loop on one machine, with a result that can be checked."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from agentgym_daemon.demo import chart, display, report
from agentgym_daemon.demo.orchestrate import Demo, Options, run
from agentgym_daemon.demo.processes import DemoError
from agentgym_daemon.scenarios.support_desk.agents.base import FRAMEWORKS

EPISODES = 3000
RETRAIN = 100
_PACKAGES = {
    "langchain": ("langchain", "langchain_openai"),
    "autogen": ("autogen_agentchat", "autogen_ext", "openai"),
    "crewai": ("crewai",),
}
"""What a framework's agent imports, beside what the daemon needs."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="agentgym-daemon demo",
        description="A support desk with 26 tools, served by a LangChain, an AutoGen and a CrewAI "
        "agent that get better at choosing tools while they run.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of all draws")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="requests to train on")
    parser.add_argument(
        "--retrain", type=int, default=RETRAIN, help="rewarded trajectories between trainings"
    )
    parser.add_argument("--model", default="", help="a real provider's model instead of the stub")
    parser.add_argument("--base-url", default=None, help="OpenAI-compatible address of --model")
    parser.add_argument(
        "--separate", action="store_true", help="each framework's agent learns a policy of its own"
    )
    parser.add_argument(
        "--frameworks", default=",".join(FRAMEWORKS), help="comma-separated; default all three"
    )
    parser.add_argument(
        "--kill-daemon",
        action="store_true",
        help="SIGKILL the daemon in mid-training, start it again",
    )
    parser.add_argument("--limit", type=int, default=None, help="use only the first N requests")
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="where the learning curve is written"
    )
    parser.add_argument("--keep", action="store_true", help="keep the daemon's directory")
    return parser


def missing_packages(
    frameworks: Sequence[str], *, find: Callable[[str], object] = importlib.util.find_spec
) -> list[str]:
    """Packages that the demo needs and this environment lacks; imports nothing."""
    wanted = [name for framework in frameworks for name in _PACKAGES[framework]]
    return [name for name in (*wanted, "matplotlib") if find(name) is None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; the last line of stdout is one JSON object."""
    arguments = build_parser().parse_args(argv)
    frameworks = tuple(arguments.frameworks.split(","))
    unknown = set(frameworks) - set(FRAMEWORKS)
    if unknown:
        sys.stderr.write(f"unknown framework {unknown.pop()!r}; expected some of {FRAMEWORKS}\n")
        return 2
    if missing := missing_packages(frameworks):
        sys.stderr.write(
            f"agentgym-daemon demo: not installed: {', '.join(missing)}; "
            "run: pip install 'agentgym[demo]' (in a clone: make demo)\n"
        )
        return 2
    # A short path: the daemon's socket lives in it.
    home = Path(tempfile.mkdtemp(prefix="agentgym-demo-"))
    options = Options(
        home=home,
        seed=arguments.seed,
        episodes=arguments.episodes,
        retrain=arguments.retrain,
        frameworks=frameworks,
        separate=arguments.separate,
        model=arguments.model,
        base_url=arguments.base_url,
        kill_daemon=arguments.kill_daemon,
        limit=arguments.limit,
    )
    demo = Demo(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no process is left behind
    try:
        with display.shown(demo):
            run(demo)
    except DemoError as error:
        sys.stderr.write(f"agentgym-daemon demo: {error}\nlogs are kept in {home}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("agentgym-daemon demo: interrupted\n")
        return 130
    result = report.results(demo)
    paths = chart.draw(demo.tally, arguments.out)
    console = Console()
    console.print(report.table(result))
    for line in report.summary(result):
        console.print(line)
    console.print(f"learning curve: {', '.join(map(str, paths))}")
    if arguments.keep:
        console.print(f"daemon directory: {home}")
    else:
        shutil.rmtree(home, ignore_errors=True)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0
