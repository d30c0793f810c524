"""Takes over what agents left in the spool: those that died, and those that never use gRPC.

directory's lock is free -> its files, half-written ones too -> the log -> unlink -> the directory
`shared` complete files  -> at any time                      -> the log -> unlink

A file is unlinked only after its facts are durable, and every fact is known by its ids, so a kill
anywhere in between means that it is read once more and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError

from agentgym.proto.v1 import (
    catalogue_pb2,
    decision_pb2,
    log_pb2,
    reward_pb2,
)
from agentgym_daemon.clock import Clock
from agentgym_daemon.errors import InvalidRequestError, NotFoundError, StorageError
from agentgym_daemon.ingest import spooled
from agentgym_daemon.ingest.spool_facts import (
    BadFileError,
    Batch,
    Fact,
    Places,
    batches,
    drops,
    is_shared,
)
from agentgym_daemon.ingest.spooled import RefusedSpoolError, SpoolDirectory, SpoolReader
from agentgym_daemon.rewards.resolve import Outcome

_logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
NoteDamage = Callable[[Path, str, int], None]
"""Keeps on record that a file was set aside: where it lies, why, how many bytes were lost."""

LOOK_S = 0.5
BYTES_PER_S = 32 * 2**20
"""Live agents come first: no more than this is read, however much lies there."""
REWARD_WAIT_S = 600.0
"""How long a spooled reward waits for its trajectory, which another process may have to bring."""
_REWARD_RETRY_S = 5.0
_PENALTY_S = 60.0
_RETRY_S = 0.5
_MAX_REWARDS = 10_000


class Spans(Protocol):
    """TraceService without gRPC."""

    async def keep(self, request: bytes, record: log_pb2.LogRecord) -> Any:
        """Keeps a request; returns when it is durable."""


class Decisions(Protocol):
    """DecisionService without gRPC."""

    async def keep(
        self, request: decision_pb2.RecordRequest, record: log_pb2.LogRecord
    ) -> decision_pb2.RecordResponse:
        """Keeps a request; returns when it is durable."""


class Catalogue(Protocol):
    """CatalogueService without gRPC."""

    async def keep(
        self, request: catalogue_pb2.PutRequest, record: log_pb2.LogRecord
    ) -> catalogue_pb2.PutResponse:
        """Keeps a request; returns when it is durable."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Where facts go: the same validation and the same log as for calls."""

    spans: Spans
    decisions: Decisions
    catalogue: Catalogue
    rewards: Callable[[Sequence[reward_pb2.Reward]], Awaitable[Sequence[Outcome]]]


@dataclass(slots=True)
class _File:
    """A file in hand, and its rewards that wait for their trajectories."""

    name: str
    rewards: list[reward_pb2.Reward] = field(default_factory=list)


@dataclass(slots=True)
class _Waiting:
    """Rewards of a file whose other facts are durable."""

    rewards: list[reward_pb2.Reward]
    until: float
    retry_at: float


class Adoption:
    """One task that empties the spool; used on the event loop, files are read in threads."""

    def __init__(
        self,
        spool: Path,
        intake: Intake,
        *,
        hold: Callable[[], str],
        clock: Clock,
        count: Callable[[str, int], None],
        note_damage: NoteDamage,
        look_s: float = LOOK_S,
    ) -> None:
        self._spool = spool
        self._intake = intake
        self._hold = hold  # why nothing is taken now; empty while it is
        self._clock = clock
        self._count = count
        self._note_damage = note_damage
        self._look_s = look_s
        self._not_shared: set[str] = set()
        self._penalties: dict[str, float] = {}
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    async def run(self) -> None:
        """Looks and adopts until it is cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            if not self._hold():
                await self.round()

    async def round(self) -> None:
        """Adopts everything that may be adopted now."""
        names = await asyncio.to_thread(spooled.candidates, self._spool)
        self._not_shared &= set(names)
        now = self._clock.monotonic()
        self._penalties = {name: at for name, at in self._penalties.items() if at > now}
        for name in names:
            if name not in self._penalties:
                await self._visit(name)

    async def _visit(self, name: str) -> None:
        try:
            directory = await asyncio.to_thread(SpoolDirectory, self._spool, name)
        except FileNotFoundError:
            return
        except RefusedSpoolError as error:
            self._punish(name, error)
            return
        with directory:
            try:
                await self._adopt(directory)
            except Exception as error:  # one bad directory must not stop the others
                if not isinstance(error, RefusedSpoolError | OSError):
                    _logger.exception("spool %s cannot be adopted now", name)
                self._punish(name, error)

    def _punish(self, name: str, error: Exception) -> None:
        _logger.warning("spool %s: %s; looked at again in %.0f s", name, error, _PENALTY_S)
        self._count("spool_refused", 1)
        self._penalties[name] = self._clock.monotonic() + _PENALTY_S

    async def _adopt(self, directory: SpoolDirectory) -> None:
        dead = await asyncio.to_thread(directory.take)
        if not dead and directory.name in self._not_shared:
            return
        suffixes = (spooled.COMPLETE, spooled.UNFINISHED) if dead else (spooled.COMPLETE,)
        names = await asyncio.to_thread(directory.files, *suffixes)
        if names and not dead and not await asyncio.to_thread(is_shared, directory, names[0]):
            self._not_shared.add(directory.name)
            return
        done = await self._adopt_files(directory, names)
        if dead and done and await asyncio.to_thread(directory.remove):
            self._count("adopted_directories", 1)

    async def _adopt_files(self, directory: SpoolDirectory, names: Sequence[str]) -> bool:
        """Whether all of the files are done with."""
        fresh = [name for name in names if (directory.name, name) not in self._waiting]
        void = await asyncio.to_thread(drops, directory) if fresh else {}
        done = True
        for name in names:
            file = _File(name)
            if name in fresh:
                await self._adopt_file(directory, file, void)
            done &= await self._end(directory, file)
        return done

    async def _adopt_file(self, directory: SpoolDirectory, file: _File, void: Places) -> None:
        stream = await asyncio.to_thread(directory.open, file.name)
        with stream:
            reader = SpoolReader(stream)
            pieces = batches(reader, file.name, directory.name, void)
            try:
                while (batch := await asyncio.to_thread(next, pieces, None)) is not None:
                    await self._take(batch, file)
            except BadFileError as error:
                reader.lost_bytes += reader.size
                await self._set_aside(directory, file, reader, str(error))
                return
        torn = reader.torn_bytes if file.name.endswith(spooled.COMPLETE) else 0
        if not reader.damaged_frames and not torn:
            self._count("spool_torn_bytes", reader.torn_bytes)
            self._count("adopted_files", 1)
            return
        reader.lost_bytes += torn
        reason = f"{reader.damaged_frames} frames with a wrong checksum, {torn} bytes torn off"
        await self._set_aside(directory, file, reader, reason)

    async def _set_aside(
        self, directory: SpoolDirectory, file: _File, reader: SpoolReader, reason: str
    ) -> None:
        place = await asyncio.to_thread(directory.set_aside, file.name)
        _logger.error("spool file %s: %s; what could be read was kept", place, reason)
        self._count("spool_damaged_files", 1)
        self._count("spool_damaged_frames", reader.damaged_frames)
        self._count("spool_lost_bytes", reader.lost_bytes)
        await asyncio.to_thread(self._note_damage, place, reason, reader.lost_bytes)

    async def _end(self, directory: SpoolDirectory, file: _File) -> bool:
        """Unlinks a file if nothing of it waits any more."""
        key = (directory.name, file.name)
        now = self._clock.monotonic()
        if file.rewards:
            self._waiting[key] = _Waiting(file.rewards, now + REWARD_WAIT_S, now + _REWARD_RETRY_S)
        waiting = self._waiting.get(key)
        if waiting is not None and now >= waiting.retry_at:
            waiting.rewards = await self._give(waiting.rewards)
            waiting.retry_at = now + _REWARD_RETRY_S
        if waiting is not None and waiting.rewards and now < waiting.until:
            return False
        if waiting is not None:
            self._count("adopted_rewards_rejected", len(waiting.rewards))
            del self._waiting[key]
        await asyncio.to_thread(directory.unlink, file.name)
        return True

    async def _take(self, batch: Batch, file: _File) -> None:
        """Makes a batch durable, then gives its rewards, then rests."""
        for dropped in batch.dropped:
            reason = "".join(c if c.isalnum() else "_" for c in dropped.reason[:40])
            for kind, items in dropped.items.items():
                self._count(f"spool_dropped_{kind[:40]}_{reason}", items)
        await asyncio.gather(*map(self._keep, batch.facts))
        file.rewards += await self._give(batch.rewards)
        self._count("adopted_rejected", batch.unreadable)
        for kind, items in batch.items.items():
            self._count(f"adopted_{kind[:40]}", items)
        await asyncio.sleep(batch.size / BYTES_PER_S)

    async def _keep(self, fact: Fact) -> None:
        try:
            if fact.kind == "spans":
                await self._durably(lambda: self._intake.spans.keep(fact.data, fact.record()))
            elif fact.kind == "decisions":
                decisions = decision_pb2.RecordRequest.FromString(fact.data)
                await self._durably(lambda: self._intake.decisions.keep(decisions, fact.record()))
            else:
                tools = catalogue_pb2.PutRequest.FromString(fact.data)
                await self._durably(lambda: self._intake.catalogue.keep(tools, fact.record()))
        except (InvalidRequestError, DecodeError) as error:
            self._count("adopted_rejected", 1)
            _logger.warning("spooled %s cannot be read: %s", fact.kind, error)

    async def _give(self, rewards: list[reward_pb2.Reward]) -> list[reward_pb2.Reward]:
        """Gives rewards; those whose trajectory is unknown come back."""
        unknown = []
        for start in range(0, len(rewards), _MAX_REWARDS):
            part = rewards[start : start + _MAX_REWARDS]
            outcomes = await self._durably(lambda part=part: self._intake.rewards(part))  # type: ignore[misc]
            for reward, outcome in zip(part, outcomes, strict=True):
                if isinstance(outcome.error, NotFoundError):
                    unknown.append(reward)
                elif outcome.error is not None:
                    self._count("adopted_rewards_rejected", 1)
                    _logger.warning("spooled reward refused: %s", outcome.error)
        self._count("adopted_rewards_rejected", max(0, len(unknown) - _MAX_REWARDS))
        return unknown[:_MAX_REWARDS]

    async def _durably(self, write: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Writes as soon as writing works: what lies in the spool can wait."""
        while True:
            if not self._hold():
                try:
                    return await write()
                except StorageError as error:
                    _logger.info("adoption waits: %s", error)
            await asyncio.sleep(_RETRY_S)
