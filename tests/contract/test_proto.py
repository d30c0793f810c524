"""The contract in proto/: generated stubs are current, and yesterday's bytes still mean the same.

A file in golden/ is never edited, only added: NAME.json is the message, NAME.hex its bytes as
version 1 first wrote them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from agentgym.proto.v1 import decision_pb2, log_pb2, policy_pb2, reward_pb2

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
STUBS = ROOT / "plugins" / "agentgym" / "proto" / "v1"
GENERATOR = "grpcio-tools==1.71.2"

MESSAGES: dict[str, type[Message]] = {
    "decision_record": decision_pb2.DecisionRecord,
    "decision_record_down": decision_pb2.DecisionRecord,
    "decision_record_observed": decision_pb2.DecisionRecord,
    "log_record_experiment": log_pb2.LogRecord,
    "log_record_reward": log_pb2.LogRecord,
    "log_record_training": log_pb2.LogRecord,
    "policy_update": policy_pb2.PolicyUpdate,
    "policy_update_encoder": policy_pb2.PolicyUpdate,
    "policy_update_experiment": policy_pb2.PolicyUpdate,
    "reward": reward_pb2.Reward,
    "task_features": decision_pb2.TaskFeatures,
    "task_features_embedded": decision_pb2.TaskFeatures,
}


def golden_bytes(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def golden_json(name: str) -> dict[str, object]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def as_dict(message: Message) -> dict[str, object]:
    return MessageToDict(message, preserving_proto_field_name=True)


def generate(target: Path) -> None:
    protos = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "pyi")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *map(str, protos)]
    subprocess.run(command, cwd=ROOT / "proto", check=True, timeout=60)


def test_regeneration_changes_nothing(tmp_path: Path) -> None:
    """Run `make proto` if this fails; the generator is pinned in pyproject.toml."""
    generate(tmp_path)

    fresh = {p.name: p.read_text() for p in (tmp_path / "agentgym/proto/v1").iterdir()}
    committed = {p.name: p.read_text() for p in STUBS.iterdir() if "_pb2" in p.name}
    committed = {name: text for name, text in committed.items() if not name.endswith(".pyc")}
    assert fresh.keys() == committed.keys()
    assert [name for name in fresh if fresh[name] != committed[name]] == []


def test_the_generator_is_pinned_where_it_is_declared() -> None:
    assert f'"{GENERATOR}"' in (ROOT / "pyproject.toml").read_text()
    assert GENERATOR in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_golden_file_is_tested() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == MESSAGES.keys()


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_parse_to_the_expected_message(name: str) -> None:
    message = MESSAGES[name].FromString(golden_bytes(name))

    assert as_dict(message) == golden_json(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_same_message_gives_the_same_bytes(name: str) -> None:
    message = ParseDict(golden_json(name), MESSAGES[name]())

    assert message.SerializeToString(deterministic=True) == golden_bytes(name)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_a_newer_version_survive_a_round_trip(name: str) -> None:
    """A daemon keeps what a newer plugin says, even where it does not understand it."""
    unknown = bytes.fromhex("fa7e0568656c6c6f")  # field 2031, wire type 2, b"hello"

    message = MESSAGES[name].FromString(golden_bytes(name) + unknown)

    assert as_dict(message) == golden_json(name)
    assert message.SerializeToString(deterministic=True) == golden_bytes(name) + unknown
