"""What is in a saved model."""

import io
import json
import pathlib
import zipfile
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file, open_path


def saved_settings(path: str | pathlib.Path | io.BufferedIOBase, algorithm: str, own: str) -> dict[str, Any]:
    """
    The saved attributes as they stand in a model's zip file, without unpickling any.

    :param path: of the file, or an open binary file
    :param algorithm: name of the class whose file is expected
    :param own: a setting that this algorithm alone has
    :raises ValueError: when the file is damaged, is no saved model, or is one of another algorithm
    """
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
            if missing := {"data", "policy.pth", "policy.optimizer.pth"}.difference(archive.namelist()):
                raise KeyError(f"no {', '.join(sorted(missing))} in it")
            settings = json.loads(archive.read("data"))
        if not isinstance(settings, dict):
            raise ValueError("its data is no dictionary")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a saved model, or is damaged ({error}). Expected a zip file written by {algorithm}.save()."
        ) from error
    finally:
        if isinstance(path, (str, pathlib.Path)):
            file.close()
        else:
            path.seek(0)
    if own not in settings:
        raise ValueError(
            f"{path} was saved by another algorithm than {algorithm}. Load it with the class that saved it."
        )
    return settings


def saved_parameters(path_or_dict: str | dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """
    What SB3's ``set_parameters`` was given, read from the file if it was a path.

    :param path_or_dict: path of a zip file, or state dictionaries by name
    :param device: for what a file holds
    """
    if isinstance(path_or_dict, dict):
        return path_or_dict
    parameters: dict[str, Any] = load_from_zip_file(path_or_dict, device=device, load_data=False)[1]
    return parameters
