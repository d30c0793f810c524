"""Digests of what a figure depends on, so that a resumed table never mixes two learners.

Comments and docstrings do not count. Run as a program it says what it finds in its interpreter,
after importing what the referee will drive: `python -m agentgym_daemon.bench.learn.identity`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

LEARNER = "agentgym_daemon.bench.learn.learner"
ORACLE = "agentgym_daemon.bench.learn.oracle"
_PACKAGES = ("agentgym", "numpy", "torch", "vowpalwabbit")
_LENGTH = 16


def of_source(texts: Iterable[str]) -> str:
    """A digest of Python sources without comments and docstrings."""
    digest = hashlib.sha256()
    for text in texts:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            _strip(node)
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:_LENGTH]


def _strip(node: ast.AST) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:]


def of_files(paths: Iterable[Path]) -> str:
    """A digest of files' bytes."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:_LENGTH]


def of_module(name: str) -> tuple[str, list[Path]]:
    """A digest of a module and of all modules of this project loaded with it, and their files."""
    importlib.import_module(name)
    files = {
        module: Path(str(found.__file__)).resolve()
        for module, found in list(sys.modules.items())
        if module.partition(".")[0] in ("agentgym", "agentgym_daemon") and _is_source(found)
    }
    paths = [files[module] for module in sorted(files)]
    return of_source(path.read_text(encoding="utf-8") for path in paths), paths


def _is_source(module: Any) -> bool:
    return str(getattr(module, "__file__", None) or "").endswith(".py")


def versions() -> dict[str, str]:
    """Python's and the packages' versions; an absent package is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Prints digests and versions as JSON."""
    oracle, _ = of_module(ORACLE)
    learner, files = of_module(LEARNER)
    found = {"oracle": oracle, "learner": learner, "files": list(map(str, files))}
    sys.stdout.write(json.dumps({**found, "versions": versions()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
