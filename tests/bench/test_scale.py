"""``scale``: its tables, and its model of many ranks by hand."""

import json
from pathlib import Path

import pytest

from sb3_trpo_ext.bench import scale
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.scale_rank import Measured

NETWORK = scale.Network(latency=1e-4, bandwidth=1e9)
PARTS = scale.Parts(rollout=0.2, update=0.1, messages=100, bytes=1e6)
AS_IT_IS = scale.CHANGES[0]


def measured(rate):
    return Measured(rate, 0.2, 100.0, 1e6, 1.1e6, [(2048 * k, -100.0 / k) for k in range(1, 10)])


def test_messages_by_hand():
    # 100 messages, 2 · log₂ 8 = 6 latencies each; 2 · 7/8 · 1 MB through a line of 1 GB/s.
    by_hand = 100 * 6 * 1e-4 + 1.75e-3
    assert scale.seconds_of_messages(PARTS, NETWORK, 8, AS_IT_IS) == pytest.approx(by_hand)
    assert scale.seconds_of_messages(PARTS, NETWORK, 1, AS_IT_IS) == 0.0


def test_sums_inside_a_machine_are_cheaper():
    inside = scale.Change("", 1.0, 8)
    # One machine of eight: 2 · log₂ 8 steps at a tenth of the latency, nothing through the line.
    assert scale.seconds_of_messages(PARTS, NETWORK, 8, inside) == pytest.approx(100 * 0.6 * 1e-4)
    # Eight machines of eight: 6 and 0.6 steps.
    by_hand = 100 * 6.6 * 1e-4 + 1.75e-3
    assert scale.seconds_of_messages(PARTS, NETWORK, 64, inside) == pytest.approx(by_hand)


def test_fewer_messages_take_their_share():
    fewer = scale.Change("", 0.5, 1)
    whole = scale.seconds_of_messages(PARTS, NETWORK, 8, AS_IT_IS)
    assert scale.seconds_of_messages(PARTS, NETWORK, 8, fewer) == pytest.approx(whole / 2)


def test_the_model_table():
    lines = scale.model_table(PARTS, NETWORK).splitlines()
    assert "K = 512" in lines[1]
    each = next(line for line in lines if "2048 steps each, as it is" in line)
    shared = next(line for line in lines if "2048 steps in all, as it is" in line)
    seconds = scale.seconds_of_messages(PARTS, NETWORK, 8, AS_IT_IS)
    assert float(each.split()[-3]) == pytest.approx(0.3 * 8 / (0.3 + seconds), abs=0.06)
    assert float(shared.split()[-3]) == pytest.approx(0.3 / (0.3 / 8 + seconds), abs=0.06)
    assert [line.split()[-5] for line in (each, shared)] == ["1.0", "1.0"]


def test_the_speed_table():
    table = scale.speed_table("Hopper-v5", {1: [measured(r) for r in (90, 100, 110)], 2: [measured(180)]})
    assert "100 (90 – 110)" in table
    assert "1.80" in table
    assert "1100.0 KB" in table


def test_the_table_of_returns():
    table = scale.returns_table({1: [measured(1), measured(1)], 2: [measured(1), measured(1)]})
    assert "after 18432" in table
    assert table.count("-11 ± 0") == 2


def test_parts_are_those_of_one_process():
    alone = [Measured(2048 / 0.3, 0.2, 0, 0, 0, [])]
    parts = scale.parts_of(alone, [measured(1)])
    assert parts.rollout == 0.2
    assert parts.update == pytest.approx(0.1)
    assert (parts.messages, parts.bytes) == (100.0, 1e6)


def test_the_page_shows_what_is_stored():
    """docs/guide/distributed.md has the tables of benchmarks/speed/scale.json, as the command prints them."""
    checkout = Path(__file__).parents[2]
    page = (checkout / "docs/guide/distributed.md").read_text(encoding="utf-8")
    document = json.loads((checkout / "benchmarks/speed/scale.json").read_text(encoding="utf-8"))
    network = scale.Network(latency=50e-6, bandwidth=1.25e9)

    def read(ones):
        return {int(n): [Measured(**one) for one in turns] for n, turns in ones.items()}

    for environment, turns in document["speed"].items():
        assert scale.speed_table(environment, read(turns)).strip() in page
    parts = scale.Parts(**document["model"]["HalfCheetah-v5"])
    assert scale.model_table(parts, network).strip() in page
    assert scale.returns_table(read(document["returns"])).strip() in page


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    out = tmp_path / "scale.json"
    main(["scale", "--envs", "CartPole-v1", "--iterations", "1", "--repeats", "1", "--seeds", "0", "--out", str(out)])
    assert "CartPole-v1, 2048 steps per rank" in capsys.readouterr().out
    document = json.loads(out.read_text())
    assert document["speed"]["CartPole-v1"].keys() == {"1", "2"}
    two = document["speed"]["CartPole-v1"]["2"][0]
    assert two["messages"] > 50 and 0.5 * two["formula"] < two["bytes"] < 1.5 * two["formula"]
