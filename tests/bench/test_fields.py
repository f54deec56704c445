"""Fields of a result's file that are not what they must be are named, by every command that reads one."""

import json

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.fields import FIELDS
from sb3_trpo_ext.bench.results import read
from sb3_trpo_ext.bench.store import append


def changed(document, path, value):
    """The document with another value under some keys."""
    if not path:
        return value
    key, *inner = path
    return {**document, key: changed(document.get(key), inner, value)}


VALUES = [None, True, 1.5, "text", [1, "2"], {"torch": 2}]


WRONG = [
    pytest.param(field, value, id=f"{'.'.join(field.path) or 'file'} {value!r}")
    for field in FIELDS
    for value in VALUES
    if not (field.optional if value is None else field.kind.fits(value))
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_field_of_a_wrong_type_is_named(tmp_path, stored, contents, field, value):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    path = run.path(tmp_path)
    path.write_text(json.dumps(changed(contents(path), field.path, value)))
    name = ".".join(field.path) or "all of it"
    with pytest.raises(SystemExit) as end:
        main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
    assert str(end.value).startswith(f"{path} is no result of `bench learn`: {name} ")
    assert field.kind.name in str(end.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("run", "timesteps"), 0, "run.timesteps must be a whole number from 1, got 0"),
        (("run", "seed"), "0", "run.seed must be a whole number, got '0'"),
        (("run", "sede"), 0, "run.sede is not known"),
        (("run", "params"), [["target_kl", 1]], "run.params must be an object, got"),
        (("curve", "steps"), "12", "curve.steps must be a list of whole numbers, got '12'"),
        (("curve", "seconds"), 0, "curve.seconds must be a list of numbers, got 0"),
        (("versions",), {"torch": 2.8}, "versions must be an object of texts, got {'torch': 2.8}"),
        (("evaluation",), [10**400], "int too large"),
    ],
)
def test_what_is_wrong_with_a_field(tmp_path, stored, contents, path, value, message):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    file = run.path(tmp_path)
    file.write_text(json.dumps(changed(contents(file), path, value)))
    lines = tmp_path / "runs.jsonl"
    append(lines, contents(file))
    commands = (
        ["report", "--results", str(tmp_path)],
        ["report", "--results", str(lines)],
        ["check", "--stored", str(lines)],
        ["learn", "--envs=CartPole-v1", "--timesteps=1000", "--algos=trpo_ext", "--seeds=0", "--out", str(lines)],
    )
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(command)
        assert message in str(end.value)


def test_fields_that_may_be_null(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    document = contents(run.path(tmp_path))
    for field in FIELDS:
        if field.optional:
            document = changed(document, field.path, None)
    run.path(tmp_path).write_text(json.dumps(document))
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
    assert read(run.path(tmp_path)).run == run
