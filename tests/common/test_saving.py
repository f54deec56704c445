"""Files that hold no model, or another algorithm's, are refused, whatever they hold."""

import io
import zipfile

import pytest
import stable_baselines3

from sb3_trpo_ext import TRPO


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
