"""A policy version as one signed file, to carry it to another installation.

A zip without compression, of which every byte is prescribed:

    policy.safetensors   manifest.json   receipt.json
    bundle.json          scope, origin, key, and the sha256 of the three
    signature            ed25519 over a prefix and the sha256 of bundle.json
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentgym.errors import SnapshotError
from agentgym.policy.snapshot import MAX_BYTES, Snapshot, canonical, digest, parse
from agentgym.policy.trust import key_id, verify
from agentgym.proto.v1 import common_pb2, policy_pb2
from agentgym_daemon.errors import BundleError

FORMAT = "agentgym-bundle-1"
POLICY, MANIFEST, RECEIPT = "policy.safetensors", "manifest.json", "receipt.json"
BUNDLE, SIGNATURE = "bundle.json", "signature"
_FILES = (POLICY, MANIFEST, RECEIPT)
_NAMES = (*_FILES, BUNDLE, SIGNATURE)
_MAX_TEXT_BYTES = 16 * 2**20
MAX_BUNDLE_BYTES = MAX_BYTES + 4 * _MAX_TEXT_BYTES
_SIGNED = b"agentgym.bundle.v1\0"  # no update of policies can begin so
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    snapshot: Snapshot
    scope: common_pb2.Scope
    receipt: Mapping[str, Any]
    key_id: str
    features: str  # which installation's features the policy reads


def features_id(feature_key: bytes) -> str:
    """A name of the key of an installation's features, which says nothing of the key."""
    return hashlib.sha256(b"agentgym.features.v1\0" + feature_key).hexdigest()[:32]


def pack(
    data: bytes,
    version: policy_pb2.PolicyVersion,
    *,
    features: str,
    public: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """The bundle of a version with its verified file."""
    files = {
        POLICY: data,
        MANIFEST: version.manifest_json.encode(),
        RECEIPT: version.receipt_json.encode(),
    }
    about = {
        "format": FORMAT,
        "version": version.version,
        "scope": {
            "agent": version.scope.agent,
            "agent_name": version.scope.agent_name,
            "feature_schema": version.scope.feature_schema,
        },
        "features": features,
        "files": {name: digest(files[name]) for name in _FILES},
        "key_id": key_id(public),
        "public_key": public.hex(),
    }
    text = canonical(about).encode()
    return _zip({**files, BUNDLE: text, SIGNATURE: sign(_message(text))})


def unpack(data: bytes, trusted: Iterable[bytes]) -> Bundle:
    """What a bundle holds, all of it verified; raises BundleError naming the first fault."""
    files = _unzip(data)
    about = _about(files[BUNDLE])
    known = {key_id(public): public for public in trusted}
    signer = str(about["key_id"])
    if signer not in known:
        raise BundleError(
            f"the bundle is signed with key {signer[:64]!r}, trusted are {sorted(known)}; "
            "--trust FILE names the origin's signing.pub"
        )
    if not verify(known[signer], files[SIGNATURE], _message(files[BUNDLE])):
        raise BundleError(f"the signature is not that of key {signer}; the bundle was changed")
    for name in _FILES:
        if digest(files[name]) != about["files"].get(name):
            raise BundleError(f"{name} was changed after the bundle was signed")
    try:
        snapshot = parse(files[POLICY], digest(files[POLICY]))
        receipt = json.loads(files[RECEIPT] or b"{}")
    except (SnapshotError, ValueError, RecursionError) as error:
        raise BundleError(f"the bundle's policy cannot be used: {error}") from error
    if canonical(snapshot.manifest).encode() != files[MANIFEST]:
        raise BundleError(f"{MANIFEST} is not that of the policy")
    scope = _scope(about, snapshot)
    if not isinstance(receipt, dict):
        raise BundleError(f"{RECEIPT}: expected an object")
    return Bundle(snapshot, scope, receipt, signer, str(about["features"]))


def _message(about: bytes) -> bytes:
    return _SIGNED + hashlib.sha256(about).digest()


def _about(text: bytes) -> dict[str, Any]:
    try:
        about = json.loads(text)
        found = about["format"]
        sound = all(isinstance(about[name], dict) for name in ("files", "scope"))
        sound = sound and all(name in about for name in ("key_id", "features", "version"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{BUNDLE} cannot be read: {error!r}") from error
    if found != FORMAT or not sound:
        raise BundleError(f"expected a bundle of format {FORMAT}, got {found!r}")
    return dict(about)


def _scope(about: Mapping[str, Any], snapshot: Snapshot) -> common_pb2.Scope:
    """The scope, if bundle and policy agree on it."""
    said = about["scope"]
    try:
        scope = common_pb2.Scope(**said)
        own = snapshot.manifest["scope"]
        differ = [name for name in said if own.get(name, said[name]) != said[name]]
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"the bundle's scope cannot be read: {error}") from error
    if differ or snapshot.version != about["version"] or not scope.agent:
        raise BundleError(f"the bundle is of {said}, its policy of {own}")
    return scope


def _zip(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in _NAMES:
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
    return out.getvalue()


def _unzip(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"the bundle has more than {MAX_BUNDLE_BYTES} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if tuple(entry.filename for entry in entries) != _NAMES:
                raise BundleError(f"expected the files {', '.join(_NAMES)} in the bundle")
            # Nothing unfolds: what is read is never longer than what came.
            if any(e.compress_type or e.file_size != e.compress_size for e in entries):
                raise BundleError("the bundle is compressed; bundles are not")
            if sum(entry.file_size for entry in entries) > len(data):
                raise BundleError("the bundle says that it is longer than it is")
            files = {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"the file is no bundle, or it was cut off: {error}") from error
    if _zip(files) != data:
        raise BundleError("the bundle was changed: it has bytes that belong to none of its files")
    return files
