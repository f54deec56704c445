"""The list of cases."""

from sb3_trpo_ext.bench.cases import CASES, MEMORY, QUICK, by_name


def test_names_are_unique_and_found():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len({case.name for case in QUICK}) == len(QUICK)
    assert set(MEMORY) <= set(names)
    assert by_name("update/64-64/2048").samples == 2048


def test_all_rollouts_divide_into_environments_and_minibatches():
    for case in (*CASES, *QUICK):
        arguments = case.arguments
        assert arguments["n_steps"] * getattr(case, "n_envs", 1) == case.samples
        assert case.samples % arguments["batch_size"] == 0
