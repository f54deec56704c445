"""What the fields of a result's file must be, so that nothing else gets as far as tables and plots."""

from collections.abc import Callable
from reprlib import repr as shortened
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """
    :param name: what a field must be
    :param fits: whether a value is that
    """

    name: str
    fits: Callable[[Any], bool]


class Field(NamedTuple):
    """
    :param path: its key, and those of the objects that it is in, outermost first
    :param kind: what it must be
    :param optional: whether it may be null or missing
    """

    path: tuple[str, ...]
    kind: Kind
    optional: bool = False


def is_number(value: Any) -> bool:
    """
    :param value: of JSON, whose true and false Python takes for numbers
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """
    :param value: likewise
    """
    return is_number(value) and isinstance(value, int)


def is_list_of(fits: Callable[[Any], bool], value: Any) -> bool:
    """
    :param fits: for each item
    :param value: of JSON
    """
    return isinstance(value, list) and all(fits(one) for one in value)


TEXT = Kind("text", lambda value: isinstance(value, str))
WHOLE = Kind("a whole number", is_whole)
POSITIVE = Kind("a whole number from 1", lambda value: is_whole(value) and value >= 1)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TEXTS = Kind("an object of texts", lambda value: isinstance(value, dict) and is_list_of(TEXT.fits, [*value.values()]))
NUMBER = Kind("a number", is_number)
NUMBERS = Kind("a list of numbers", lambda value: is_list_of(is_number, value))
STEPS = Kind("a list of whole numbers", lambda value: is_list_of(is_whole, value))

#: What a field is in comes before it.
FIELDS = (
    Field((), OBJECT),
    Field(("run",), OBJECT),
    Field(("run", "algo"), TEXT),
    Field(("run", "environment"), TEXT),
    Field(("run", "timesteps"), POSITIVE),
    Field(("run", "seed"), WHOLE),
    Field(("run", "label"), TEXT),
    Field(("run", "params"), OBJECT, optional=True),
    Field(("run", "defaults"), FLAG, optional=True),
    Field(("curve",), OBJECT),
    Field(("curve", "steps"), STEPS),
    Field(("curve", "returns"), NUMBERS),
    Field(("curve", "seconds"), NUMBERS, optional=True),
    Field(("curve", "processor_seconds"), NUMBERS, optional=True),
    Field(("evaluation",), NUMBERS),
    Field(("wall_seconds",), NUMBER, optional=True),
    Field(("processor_seconds",), NUMBER, optional=True),
    Field(("origin",), TEXT, optional=True),
    Field(("commit",), TEXT, optional=True),
    Field(("versions",), TEXTS, optional=True),
    Field(("machine",), OBJECT, optional=True),
    Field(("zoo_settings",), OBJECT, optional=True),
    Field(("all_settings",), OBJECT, optional=True),
)


def check_fields(document: Any) -> None:
    """
    :param document: as JSON was read
    :raises ValueError: naming the first field that is missing, unknown, or not what it must be
    """
    for field in FIELDS:
        value = document
        for key in field.path:
            value = value.get(key)
        if value is None and field.optional:
            continue
        name = ".".join(field.path) or "all of it"
        if value is None:
            raise ValueError(f"{name} is missing, which must be {field.kind.name}")
        if not field.kind.fits(value):
            raise ValueError(f"{name} must be {field.kind.name}, got {shortened(value)}")
    unknown = [key for key in document["run"] if ("run", key) not in {field.path for field in FIELDS}]
    if unknown:
        raise ValueError(f"run.{unknown[0]} is not known")
