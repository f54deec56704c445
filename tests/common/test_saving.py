"""Files that hold no model, or another algorithm's, are refused, whatever they hold."""

import io
import json
import zipfile

import pytest
import stable_baselines3
from stable_baselines3.common.save_util import data_to_json, load_from_zip_file

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.saving import saved_parameters, saved_settings


def rewrite(source, target, change):
    """A copy of a zip whose members went through ``change(name, content)``; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


DAMAGED = {
    "truncated": lambda good: good[: len(good) // 2],
    "last_byte_missing": lambda good: good[:-1],
    "not_a_zip": lambda good: b"this is a text",
    "nothing": lambda good: b"",
    "flipped_late": lambda good: good[:-6000] + bytes(255 - byte for byte in good[-6000:-5900]) + good[-5900:],
    "flipped": lambda good: good[:100] + bytes(255 - byte for byte in good[100:200]) + good[200:],
}


@pytest.mark.parametrize("as_buffer", [False, True], ids=["path", "buffer"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_is_refused(damage, as_buffer, make_env, tiny, tmp_path):
    tiny(make_env()).save(tmp_path / "good")
    content = DAMAGED[damage]((tmp_path / "good.zip").read_bytes())
    path = tmp_path / "bad.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a saved model, or is damaged .*Expected a zip file written by TRPO"):
        TRPO.load(io.BytesIO(content) if as_buffer else path)


MEMBERS = {
    "empty": lambda name, content: None,
    "no_data": lambda name, content: None if name == "data" else content,
    "data_is_no_json": lambda name, content: b"{" if name == "data" else content,
    "data_is_a_number": lambda name, content: b"3" if name == "data" else content,
    "no_policy": lambda name, content: None if name == "policy.pth" else content,
    "no_optimizer": lambda name, content: None if name == "policy.optimizer.pth" else content,
}


@pytest.mark.parametrize("member", MEMBERS)
def test_zip_with_the_wrong_members_is_refused(member, make_env, tiny, tmp_path):
    tiny(make_env()).save(tmp_path / "good")
    rewrite(tmp_path / "good.zip", tmp_path / "bad.zip", MEMBERS[member])
    with pytest.raises(ValueError, match=r"bad.zip is not a saved model, or is damaged"):
        TRPO.load(tmp_path / "bad.zip")


def test_model_of_another_algorithm_is_refused(make_env, tmp_path):
    stable_baselines3.PPO("MlpPolicy", make_env(), n_steps=16, batch_size=16).save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"ppo was saved by another algorithm than TRPO. Load it with the class"):
        TRPO.load(tmp_path / "ppo")


class Executed(Exception):
    pass


def explode():
    raise Executed


class Bomb:
    def __reduce__(self):
        return explode, ()


@pytest.fixture
def saved(make_env, tiny, tmp_path):
    model = tiny(make_env(), gamma=0.9)
    model.save(tmp_path / "model")
    return model, tmp_path / "model.zip"


def test_settings_are_read_as_they_were_saved(saved):
    _, path = saved
    for source in (path, str(path).removesuffix(".zip")):
        settings = saved_settings(source, "TRPO", own="cg_max_steps", kind="TRPO")
        assert (settings["gamma"], settings["kl_reduction"], settings["n_steps"]) == (0.9, "sum", 16)


def test_settings_are_read_without_executing_what_is_pickled(saved, tmp_path):
    """What is no JSON stands in a file as a pickle, which may hold anything."""
    _, path = saved

    def with_bomb(name, content):
        if name != "data":
            return content
        return json.dumps(json.loads(content) | json.loads(data_to_json({"bomb": Bomb()})))

    rewrite(path, tmp_path / "bomb.zip", with_bomb)
    assert saved_settings(tmp_path / "bomb.zip", "TRPO", own="cg_max_steps")["gamma"] == 0.9
    with pytest.raises(Executed):  # which is what it would do
        load_from_zip_file(tmp_path / "bomb.zip")


def test_an_open_file_is_left_open_at_its_beginning(saved):
    _, path = saved
    with open(path, "rb") as file:
        saved_settings(file, "TRPO", own="cg_max_steps")
        assert not file.closed and file.tell() == 0
        with pytest.raises(ValueError, match="another algorithm than ACER"):
            saved_settings(file, "ACER", own="replay_ratio")
        assert not file.closed and file.tell() == 0


def test_parameters_come_from_a_path_or_as_they_are(saved, bits):
    model, path = saved
    parameters = model.get_parameters()
    assert saved_parameters(parameters, "cpu") is parameters
    found = saved_parameters(str(path), "cpu")
    assert bits({name: found[name] for name in parameters}) == bits(parameters)
