"""Derived classes: an object of CrewAI keeps its state and type, and gains our methods."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from agentgym.gym import AgentGym

M = TypeVar("M")

_STATE = (
    "__dict__",
    "__pydantic_fields_set__",
    "__pydantic_extra__",
    "__pydantic_private__",
)
"""All that a pydantic object consists of besides its class."""


class Derived:
    """Common base of our mixins; `gym` and `original` are set on each derived class."""

    agentgym_gym: ClassVar[Any]
    agentgym_original: ClassVar[Any]


def gym_of(thing: object) -> AgentGym:
    """The gym that an object of a derived class belongs to."""
    gym: AgentGym = type(thing).agentgym_gym  # type: ignore[attr-defined]
    return gym


def belongs(thing: object, gym: AgentGym) -> bool:
    """Whether an object is of a class derived for this gym."""
    return isinstance(thing, Derived) and gym_of(thing) is gym


def become(gym: AgentGym, thing: object, mixin: type[Derived]) -> None:
    """Gives an object, in place, the class derived from its own."""
    object.__setattr__(thing, "__class__", _derive(gym, type(thing), mixin))


def view(gym: AgentGym, thing: M, mixin: type[Derived]) -> M:
    """A second object over the same state, of the class derived from the first one's."""
    other: M = object.__new__(_derive(gym, type(thing), mixin))
    for name in _STATE:
        object.__setattr__(other, name, object.__getattribute__(thing, name))
    return other


def _derive(gym: AgentGym, base: type[Any], mixin: type[Derived]) -> type[Any]:
    if issubclass(base, Derived):
        base = base.agentgym_original
    # Kept on the gym: a registry of our own would keep both alive for ever.
    known: dict[Any, type[Any]] = vars(gym).setdefault("_crewai_classes", {})
    derived = known.get((base, mixin))
    if derived is None:
        names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
        derived = types.new_class(
            base.__name__, (mixin, base), exec_body=lambda space: space.update(names)
        )
        derived.agentgym_gym, derived.agentgym_original = gym, base
        derived = known.setdefault((base, mixin), derived)
    return derived
