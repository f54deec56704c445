"""Options that are words are Literals: an editor offers them, a type checker refuses others, and so do the rules."""

import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import sb3_trpo_ext
from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trpo.settings import RULES

# Argument → its words, and whether None is another option.
OPTIONS = {
    "kl_reduction": ({"sum", "mean"}, False),
    "trust_region": ({"kl", "euclidean"}, False),
    "cg_preconditioner": ({"kfac"}, True),
    "critic": ({"trust_region", "adam"}, True),
}
WORDS = {word for words, _ in OPTIONS.values() for word in words}
each_option = pytest.mark.parametrize("argument", OPTIONS)


def allowed_by_the_type(argument):
    """All values of a Literal, or of a Literal or None."""
    hint = get_type_hints(TRPO.__init__)[argument]
    parts = [hint] if get_origin(hint) is Literal else get_args(hint)
    return {value for part in parts for value in (get_args(part) if get_origin(part) is Literal else [None])}


@each_option
def test_types_name_the_options(argument):
    words, optional = OPTIONS[argument]
    assert allowed_by_the_type(argument) == words | ({None} if optional else set())


@each_option
def test_rules_allow_what_the_types_allow_and_say_so(argument):
    rule = next(rule for rule in RULES if rule.argument == argument)
    candidates = [*WORDS, *(word.upper() for word in WORDS), *(f"{word} " for word in WORDS), "", None, True, False, 0]
    assert {value for value in candidates if rule.holds(value)} == allowed_by_the_type(argument)
    assert set(rule.expected.split('"')[1::2]) == OPTIONS[argument][0]
    assert ("None" in rule.expected) == OPTIONS[argument][1]


def test_no_other_argument_is_one_of_several_words():
    literals = {name for name, hint in get_type_hints(TRPO.__init__).items() if "Literal" in str(hint)}
    others = {"distributed", "curvature_sampling_factor"}  # "auto", besides True and False, or a number
    assert literals - others == OPTIONS.keys()


def test_a_type_checker_refuses_other_words(tmp_path):
    """As the user's own would: what the package is typed with is followed, its dependencies need not be."""
    right = [f'TRPO("MlpPolicy", "CartPole-v1", {name}="{word}")' for name in OPTIONS for word in OPTIONS[name][0]]
    right += [f'TRPO("MlpPolicy", "CartPole-v1", {name}=None)' for name in OPTIONS if OPTIONS[name][1]]
    wrong = [f'TRPO("MlpPolicy", "CartPole-v1", {name}="{max(OPTIONS[name][0])}m")' for name in OPTIONS]
    program = tmp_path / "program.py"
    program.write_text("\n".join(["from sb3_trpo_ext import TRPO", *wrong, *right]))
    options = ["--config-file=", f"--cache-dir={tmp_path}", "--no-site-packages", "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *options, "--follow-imports=silent", str(program)]
    checkout = Path(sb3_trpo_ext.__file__).parents[1]
    result = subprocess.run(command, cwd=checkout, text=True, capture_output=True)
    errors = [line for line in result.stdout.splitlines() if " error: " in line]
    for number, (name, error) in enumerate(zip(OPTIONS, errors, strict=True), start=2):
        assert f'program.py:{number}: error: Argument "{name}" to "TRPO" has incompatible type' in error
    assert result.returncode == 1
