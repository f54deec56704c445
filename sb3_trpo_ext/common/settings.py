"""Checks of what users pass, with messages that name the argument, its value and the remedy."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, NamedTuple

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule


class Rule(NamedTuple):
    """
    :param argument: name of a constructor's argument and of the attribute that keeps it, which may begin with "_"
    :param holds: whether a value is allowed
    :param expected: the same in words, after "must be"
    :param remedy: what to do instead
    """

    argument: str
    holds: Callable[[Any], bool]
    expected: str
    remedy: str


DISTRIBUTED = (
    Rule("distributed", lambda value: value in ("auto", True, False), '"auto", True or False', '"auto" is usual.'),
    Rule(
        "checkpoint_folder",
        lambda value: value is None or isinstance(value, str),
        "None or a path as a string",
        "All ranks have to see it.",
    ),
    Rule("checkpoint_every", lambda value: whole(1)(value), "a whole number >= 1", "It counts updates; 1 is usual."),
)
"""Of what all algorithms have for several processes."""


def check(model: object, rules: tuple[Rule, ...]) -> None:
    """
    :param model: an algorithm, whose attributes are checked
    :raises ValueError: on the first rule that does not hold
    """
    for rule in rules:
        value = getattr(model, rule.argument if hasattr(model, rule.argument) else f"_{rule.argument}")
        if not rule.holds(value):
            name = type(model).__name__
            raise ValueError(f"{name}({rule.argument}=...) must be {rule.expected}, got {value!r}. {rule.remedy}")


def check_names(kind: type[Any], method: Callable[..., Any], given: Iterable[str]) -> None:
    """
    :param kind: of an algorithm
    :param method: of it, which takes arguments of the constructor besides its own
    :param given: names of the arguments that were passed
    :raises ValueError: when one is neither's
    """
    known = [*inspect.signature(kind.__init__).parameters, *inspect.signature(method).parameters]
    for name in given:
        if name not in known and not name.startswith("_"):
            raise ValueError(f"{kind.__name__}.{method.__name__}({name}=...) is no argument.{_nearest(name, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what may be meant; nothing where nothing is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def check_policy_kwargs(algorithm: str, policy_class: type[Any], given: Iterable[str]) -> None:
    """
    :param algorithm: its name
    :param policy_class: whose constructors' arguments are named, and passed on to the next
    :param given: names of the arguments that were passed
    :raises ValueError: when none of the constructors has one of them
    """
    constructors = [vars(kind)["__init__"] for kind in policy_class.__mro__ if "__init__" in vars(kind)]
    parameters = [part for constructor in constructors for part in inspect.signature(constructor).parameters.values()]
    known = {part.name for part in parameters if part.kind is part.POSITIONAL_OR_KEYWORD and part.name != "self"}
    for name in given:
        if name not in known:
            raise ValueError(
                f"{algorithm}(policy_kwargs=dict({name}=...)) is no argument of {policy_class.__name__}."
                f"{_nearest(name, known)}"
            )


def whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    """Whether a value is a whole number from ``low`` to ``high``, with the ends."""
    return lambda value: isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def number(
    low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False
) -> Callable[[Any], bool]:
    """Whether a value is a finite number from ``low`` to ``high``, with or without the ends."""

    def holds(value: Any) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        x = float(value)
        above = x > low if open_low else x >= low
        below = x < high if open_high else x <= high
        return math.isfinite(x) and above and below

    return holds


def one_of(*options: object) -> Callable[[Any], bool]:
    """Whether a value is among the given ones."""
    return lambda value: value in options


def none_or(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is None, or meets ``holds``."""
    return lambda value: value is None or holds(value)


def schedule_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """
    Whether a value is a function of the remaining progress, a string that :func:`schedule` reads, or a number that
    meets ``holds``. A decay may end at 0 also where 0 itself does not hold.
    """

    def check_schedule(value: Any) -> bool:
        try:
            if isinstance(value, str):
                kind, start, *end = value.split("_")
                is_end = not end or float(end[0]) == 0 or holds(float(end[0]))
                return kind == "lin" and len(end) < 2 and holds(float(start)) and is_end
            if callable(value):
                float(value(1.0))
                return True
        except (TypeError, ValueError):
            return False
        return holds(value)

    return check_schedule


def schedule(value: float | str | Schedule) -> FloatSchedule:
    """
    A function of the remaining progress, from 1 at the start of training to 0 at its end.

    :param value: a constant, a callable, RL Zoo's notation ``"lin_0.02"`` for a linear decay from 0.02 to 0, or
        ``"lin_0.02_0.01"`` for one from 0.02 to 0.01
    """
    if isinstance(value, str):
        start, end, *_ = [*map(float, value.split("_")[1:]), 0.0]
        return FloatSchedule(LinearSchedule(start, end, 1.0))
    return FloatSchedule(float(value) if isinstance(value, Real) else value)
