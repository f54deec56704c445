"""The list of cases."""

from sb3_trpo_ext.bench.cases import BESIDE_GPU, CASES, GPU, MEMORY, QUICK, by_name


def test_names_are_unique_and_found():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for cases in (QUICK, GPU):
        assert len({case.name for case in cases}) == len(cases)
    assert set(BESIDE_GPU) <= {case.name for case in GPU}
    assert set(MEMORY) <= set(names)
    assert by_name("update/64-64/2048").samples == 2048


def test_all_rollouts_divide_into_environments_and_minibatches():
    for case in (*CASES, *QUICK, *GPU):
        arguments = case.arguments
        assert arguments["n_steps"] * getattr(case, "n_envs", 1) == case.samples
        assert case.samples % arguments["batch_size"] == 0
