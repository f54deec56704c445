"""What is in a saved model."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_trpo_ext.common.files import PathOrFile, readable

PARTS = {"data", "policy.pth", "policy.optimizer.pth"}


@contextmanager
def _whole_archive(path: PathOrFile, expected: str) -> Iterator[zipfile.ZipFile]:
    """A model's zip file, open, of which every part has its checksum; ValueError where it is damaged or no model."""
    with readable(path, suffix="zip") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"bad checksum of {damaged}")
                if missing := PARTS.difference(archive.namelist()):
                    raise zipfile.BadZipFile(f"no {', '.join(sorted(missing))} in it")
                yield archive
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
            raise ValueError(
                f"{path} is not a saved model, or is damaged or cut short ({error}). Expected {expected}."
            ) from error
        finally:
            file.seek(0)  # SB3 reads one that was given open once more


def saved_settings(path: PathOrFile, algorithm: str, own: str, kind: str | None = None) -> dict[str, Any]:
    """
    The saved attributes as they stand in a model's zip file, without unpickling any.

    :param path: of the file, or an open binary file
    :param algorithm: name of the class whose file is expected
    :param own: a setting that this algorithm and its variants alone have
    :param kind: which of the variants; files of earlier versions, and of sb3-contrib, do not say; None to
        take any
    :raises ValueError: when the file is damaged, is no saved model, or is one of another algorithm
    """
    with _whole_archive(path, f"a zip file written by {algorithm}.save()") as archive:
        try:
            settings = json.loads(archive.read("data"))
        except ValueError as error:
            raise zipfile.BadZipFile(f"its data is no JSON: {error}") from error
        if not isinstance(settings, dict):
            raise zipfile.BadZipFile("its data is no dictionary")
    saved_by = settings.get("saved_by", kind)
    if own not in settings or (kind is not None and saved_by != kind):
        other = f"another algorithm than {algorithm}" if own not in settings else f"{saved_by}, not by {algorithm}"
        raise ValueError(f"{path} was saved by {other}. Load it with the class that saved it.")
    return settings


def saved_parameters(path_or_dict: str | dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """
    What SB3's ``set_parameters`` was given, read from the file if it was a path.

    :param path_or_dict: path of a zip file, or state dictionaries by name
    :param device: for what a file holds
    :raises ValueError: when the file is damaged, or an optimizer's state is none
    """
    if isinstance(path_or_dict, dict):
        parameters = path_or_dict
    else:
        with _whole_archive(path_or_dict, "a zip file written by save()"):
            pass
        parameters = load_from_zip_file(path_or_dict, device=device, load_data=False)[1]
    for name, state in parameters.items():
        if name.endswith("optimizer") and not (isinstance(state, dict) and {"state", "param_groups"} <= state.keys()):
            raise ValueError(
                f"set_parameters: {name} must be an optimizer's state_dict() with its state and param_groups, got "
                f"{state!r:.80}. Leave it out with exact_match=False to keep the present one."
            )
    return parameters
