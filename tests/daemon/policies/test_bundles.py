"""Bundles: what another installation signed is taken whole, or not at all."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from agentgym.policy.snapshot import parse
from agentgym_daemon.errors import BundleError, PolicyStateError
from agentgym_daemon.policies.bundle import unpack

TAKE = {"agent": "", "actor": "cli:ada", "reason": "from staging"}


@pytest.fixture
async def bundle(shelf: Any) -> bytes:
    """The second version of the first shelf."""
    await shelf.register()
    return bytes(await shelf.curator.export(await shelf.register()))


def rezipped(bundle: bytes, **changes: bytes | None) -> bytes:
    """A bundle whose files were replaced, left out or added, in a zip like the real one."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for name, data in changes.items():
        files[name.replace("_", ".")] = data  # type: ignore[assignment]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            if data is not None:
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def file_of(bundle: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return archive.read(name)


async def test_a_bundle_becomes_a_candidate_under_a_number_of_its_own(
    shelf: Any, make_shelf: Callable[..., Any], bundle: bytes
) -> None:
    other = make_shelf("other")
    await other.register(live=True)

    version = await other.curator.take(bundle, [shelf.signer.public], **TAKE)

    entry, origin = other.book.get(version), shelf.book.get("p-000002")
    assert (version, entry.status, entry.parent) == ("p-000002", "candidate", "")
    assert json.loads(entry.manifest_json)["lineage"]["origin"] == {
        "version": "p-000002",
        "key_id": shelf.signer.key_id,
        "sha256": origin.sha256,
    }
    assert json.loads(entry.receipt_json)["origin"] == {"tier": 0, "best": ""}
    assert other.book.live_version(other.scope) == "p-000001"
    own, theirs = (s.registry.snapshot("p-000002") for s in (other, shelf))
    assert {n: t.tobytes() for n, t in own.parameters.tensors.items()} == {
        n: t.tobytes() for n, t in theirs.parameters.tensors.items()
    }
    assert other.kinds()[-1] == "import"
    await other.registry.promote(version, actor="cli:ada")
    data = other.registry.path(version).read_bytes()
    assert parse(data, entry.sha256).version == version


async def test_ones_own_bundles_need_no_further_trust(shelf: Any, bundle: bytes) -> None:
    assert await shelf.curator.take(bundle, [], **TAKE) == "p-000003"


async def test_the_same_version_gives_the_same_bundle(shelf: Any, bundle: bytes) -> None:
    assert await shelf.curator.export("p-000002") == bundle


async def test_a_key_that_is_not_trusted_is_refused(
    shelf: Any, make_shelf: Callable[..., Any], bundle: bytes
) -> None:
    other = make_shelf("other")

    with pytest.raises(BundleError, match=r"trusted are .*--trust FILE"):
        await other.curator.take(bundle, [], **TAKE)
    about = json.loads(file_of(bundle, "bundle.json"))
    about |= {"key_id": other.signer.key_id, "public_key": other.signer.public.hex()}
    claimed = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(BundleError, match="the signature is not that of key"):
        unpack(rezipped(bundle, bundle_json=claimed), [other.signer.public])

    assert other.book.versions() == []


async def test_no_byte_can_be_changed_and_nothing_cut_off_or_added(
    shelf: Any, bundle: bytes
) -> None:
    rng, keys = random.Random(0), [shelf.signer.public]
    places = {*range(100), *range(len(bundle) - 500, len(bundle))}
    places |= {rng.randrange(len(bundle)) for _ in range(100)}
    changed = [
        bundle[:at] + bytes([bundle[at] ^ 1 << rng.randrange(8)]) + bundle[at + 1 :]
        for at in sorted(places)
    ]
    cut = [bundle[: rng.randrange(len(bundle))] for _ in range(50)]

    for data in [*changed, *cut, bundle + b"\0", b"\0" + bundle, b""]:
        with pytest.raises(BundleError):
            unpack(data, keys)

    assert unpack(bundle, keys).snapshot.version == "p-000002"


async def test_parts_of_two_bundles_cannot_be_mixed(shelf: Any, bundle: bytes) -> None:
    first = await shelf.curator.export("p-000001")

    for name in ("policy.safetensors", "manifest.json", "bundle.json", "signature"):
        mixed = rezipped(bundle, **{name.replace(".", "_"): file_of(first, name)})
        with pytest.raises(BundleError):
            unpack(mixed, [shelf.signer.public])


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_a_zip_bomb_is_not_unfolded(method: int, shelf: Any, bundle: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in ("policy.safetensors", "manifest.json", "receipt.json", "bundle.json"):
            archive.writestr(name, b"\0" * 2**24)
        archive.writestr("signature", b"\0" * 64)

    with pytest.raises(BundleError, match="compressed"):
        unpack(out.getvalue(), [shelf.signer.public])


async def test_other_files_in_the_zip_are_refused(shelf: Any, bundle: bytes) -> None:
    for changes in ({"../../etc/passwd": b"x"}, {"receipt_json": None}):
        with pytest.raises(BundleError, match="expected the files"):
            unpack(rezipped(bundle, **changes), [shelf.signer.public])


async def test_what_is_no_bundle_is_told_so(shelf: Any) -> None:
    for data in (b"PK", b"hello", b"\x00" * 100):
        with pytest.raises(BundleError, match="no bundle, or it was cut off"):
            unpack(data, [shelf.signer.public])


async def test_a_policy_of_another_agent_is_refused(shelf: Any, bundle: bytes) -> None:
    with pytest.raises(BundleError, match="expected a policy of agent 'billing'"):
        await shelf.curator.take(bundle, [], **TAKE | {"agent": "billing"})

    assert await shelf.curator.take(bundle, [], **TAKE | {"agent": "support-desk"})


async def test_a_bundle_whose_scope_is_not_its_policys_is_refused_however_it_is_signed(
    shelf: Any,
) -> None:
    version = await shelf.register()
    entry = shelf.book.get(version)
    entry.scope.agent = "billing"
    shelf.book.add(entry)

    with pytest.raises(BundleError, match=r"the bundle is of .*billing.*, its policy of"):
        unpack(await shelf.curator.export(version), [shelf.signer.public])


async def test_another_installations_features_are_not_ours(
    make_shelf: Callable[..., Any], shelf: Any, bundle: bytes
) -> None:
    other = make_shelf("other", b"another key")

    with pytest.raises(BundleError, match=r"another installation's features.*feature\.key"):
        await other.curator.take(bundle, [shelf.signer.public], **TAKE)


async def test_what_is_quarantined_here_does_not_come_back_by_a_bundle(
    shelf: Any, make_shelf: Callable[..., Any], bundle: bytes
) -> None:
    other = make_shelf("other")
    version = await other.curator.take(bundle, [shelf.signer.public], **TAKE)
    await other.curator.quarantine(version, actor="cli:ada", reason="refunds everything")
    await shelf.curator.quarantine("p-000002", actor="cli:ada", reason="refunds everything")

    for desk in (other, shelf):
        with pytest.raises(PolicyStateError, match="which is quarantined"):
            await desk.curator.take(bundle, [shelf.signer.public], **TAKE)
