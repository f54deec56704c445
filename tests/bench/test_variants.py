"""The table of an ablation."""

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.results import Run
from sb3_trpo_ext.bench.variants import settings


def test_variants_of_another_baseline(tmp_path, results, row):
    main(["report", "--results", str(results), "--out", str(tmp_path), "--baseline", "trpo_ext"])
    text = (tmp_path / "learning.md").read_text()
    title = "Variants of trpo_ext"
    assert (
        "| variant | settings | CartPole-v1 20k | Pendulum-v1 40k | all |\n| --- | --- | ---: | ---: | ---: |" in text
    )
    assert row(text, title, "trpo_ext") == ["as shipped", "457.5 ± 295.1", "−694.5 ± 770.0 (2)", "–"]
    # Scaled by 500 − 24.5; one seed tells no interval.
    assert row(text, title, "wide") == ["`target_kl:0.05`", "400.0 (1)", "–", "−0.12"]
    assert row(text, title, "sb3-contrib trpo")[3].startswith("−0.54 [")
    main(["report", "--results", str(results), "--out", str(tmp_path)])
    assert "Variants" not in (tmp_path / "learning.md").read_text()


def test_a_variant_is_compared_over_what_it_shares_with_the_baseline(tmp_path, stored, results, row):
    """Whatever tasks the other variants lack."""
    stored(results, "both", "CartPole-v1", 20_000, [500.0], algo="trpo_ext", params={"gamma": 0.9})
    stored(results, "both", "Pendulum-v1", 40_000, [-150.0], algo="trpo_ext", params={"gamma": 0.9})
    main(["report", "--results", str(results), "--out", str(tmp_path), "--baseline", "trpo_ext"])
    # (500 − 457.5) / (500 − 24.5) = 0.09 and half of Pendulum's scale.
    assert row((tmp_path / "learning.md").read_text(), "Variants of trpo_ext", "both")[-1] == "0.29"


def test_settings_of_a_variant():
    def run(environment, defaults=False, **params):
        return Run("trpo_ext", environment, 1000, 0, "mine", params, defaults)

    assert settings([run("Hopper-v4", n_steps=8, target_kl=0.06), run("Ant-v4", n_steps=8, target_kl=0.16)]) == (
        "`n_steps:8`, `target_kl:…`"
    )
    assert settings([run("Ant-v4", True)]) == "constructor's defaults"
    assert settings([run("Ant-v4")]) == "as shipped"
