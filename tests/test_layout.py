"""House rules that a machine can check: module size, names, exports, no traces of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "plugins" / "agentgym", ROOT / "daemon" / "agentgym_daemon")
GENERATED = PACKAGES[0] / "proto"
MODULES = sorted(
    path for package in PACKAGES for path in package.rglob("*.py") if GENERATED not in path.parents
)
INITS = [path for path in MODULES if path.name == "__init__.py"]
MAX_LINES = 700
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|workspace|opt)/\w")
TEXT_SUFFIXES = {".py", ".pyi", ".md", ".toml", ".yml", ".txt", ".proto", ".json", ".cfg", ""}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project_files() -> list[Path]:
    """Files that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in files if path.is_file() and path.suffix in TEXT_SUFFIXES]


def exported(path: Path) -> list[str] | None:
    """The literal `__all__` of a module, or None if it has none."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return list(value)
    return None


def imports_names(path: Path) -> bool:
    """Whether a module imports names of our packages, which can only mean to pass them on."""
    return any(
        isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentgym")
        for node in ast.parse(path.read_text()).body
    )


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_module_has_a_vague_name(path: Path) -> None:
    assert path.stem not in VAGUE
    assert path.parent.name not in VAGUE


@pytest.mark.parametrize("path", INITS, ids=relative)
def test_a_package_that_exports_says_what(path: Path) -> None:
    names = exported(path)

    if names is None:
        assert not imports_names(path), "a package that imports names lists them in __all__"
    else:
        assert len(names) == len(set(names))  # their order is the linter's matter


def test_both_packages_ship_type_information() -> None:
    assert [relative(package) for package in PACKAGES if not (package / "py.typed").is_file()] == []


def test_no_file_mentions_a_path_of_somebodys_machine() -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()[:120]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if MACHINE_PATHS.search(line) and path != Path(__file__)
    ]

    assert found == []
