"""What is recorded is in the logger, under its own keys."""

from dataclasses import dataclass

from stable_baselines3.common.logger import Logger

from sb3_trpo_ext.common.diagnostics import record


@dataclass
class Result:
    loss: float

    def logged(self):
        return {"train/loss": self.loss, "train/status": "fine"}


def recorded(*results):
    logger = Logger(None, [])
    record(logger, *results)
    return dict(logger.name_to_value)


def test_results_and_plain_mappings_are_recorded_together():
    values = recorded(Result(0.5), {"time/seconds": 2.0})
    assert values == {"train/loss": 0.5, "train/status": "fine", "time/seconds": 2.0}


def test_a_later_result_replaces_what_an_earlier_one_said():
    assert recorded({"train/loss": 1.0}, Result(0.5))["train/loss"] == 0.5


def test_nothing_is_recorded_of_nothing():
    assert recorded() == {}
