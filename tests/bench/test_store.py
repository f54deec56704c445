"""The file of finished runs: lines are added and read, and what is wrong with one is said."""

import json

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.store import append, finished, key, read_all


@pytest.fixture
def documents(tmp_path, stored, contents):
    """Of three seeds."""
    runs = stored(tmp_path / "old", "trpo", "CartPole-v1", 1000, [8.0, 9.0, 10.0])
    return [contents(run.path(tmp_path / "old")) for run in runs]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new/runs.jsonl"


def test_what_is_added_is_read(tmp_path, documents, out):
    for document in reversed(documents):
        append(out, document)
    assert [json.loads(line) for line in out.read_text().splitlines()] == documents[::-1]
    assert read_all([out]) == read_all([tmp_path / "old"])
    assert finished(out) == {key(result.run): result for result in read_all([out])}


def test_signs_of_any_language_are_kept(documents, out):
    documents[0]["run"]["label"] = "größe"
    append(out, documents[0])
    assert "größe" in out.read_text(encoding="utf-8")
    assert read_all([out])[0].run.label == "größe"


def test_a_file_that_is_not_there_has_no_runs(out):
    assert finished(out) == {}
    with pytest.raises(ValueError, match=r"no finished runs in \S+runs\.jsonl"):
        read_all([out])


def test_of_a_line_that_was_cut_short_no_more_than_itself_is_lost(documents, out):
    append(out, documents[0])
    out.write_text(out.read_text() + json.dumps(documents[1])[:99])
    append(out, documents[2])
    first, cut, last = out.read_text().splitlines()
    assert json.loads(last) == documents[2] and len(cut) == 99
    with pytest.raises(SystemExit, match=r"line 2 of \S+runs\.jsonl is no result of .*Remove it"):
        main(["report", "--results", str(out)])
    out.write_text(f"{first}\n\n{last}\n")
    assert [one.run.seed for one in read_all([out])] == [0, 2]


@pytest.mark.parametrize("line", [b"{}", b"[]", b"\xff", b"none"])
def test_a_line_that_is_no_result(out, documents, line):
    append(out, documents[0])
    out.write_bytes(out.read_bytes() + line)
    with pytest.raises(ValueError, match=r"line 2 of \S+runs\.jsonl is no result"):
        finished(out)


def test_a_run_that_is_there_twice(tmp_path, documents, out):
    append(out, documents[0])
    with pytest.raises(ValueError, match=r"seed 0 is there twice: line 1 of \S+ and \S+CartPole-v1_1000_0\.json"):
        read_all([out, tmp_path / "old"])
    append(out, documents[0])
    with pytest.raises(ValueError, match=r"seed 0 is there twice: line 1 of \S+ and line 2 of \S+"):
        read_all([out])
