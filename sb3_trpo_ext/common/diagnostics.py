"""The one place that writes to the logger."""

from collections.abc import Mapping
from typing import Protocol

from stable_baselines3.common.logger import Logger


class Logged(Protocol):
    """A result that knows under which keys it is shown."""

    def logged(self) -> Mapping[str, float]:
        """Key of the console table and of TensorBoard → value: a number, as some loggers average all they are given."""
        ...


def record(logger: Logger, *results: Logged | Mapping[str, float]) -> None:
    """
    Log results for the next dump of the table.

    :param logger: of the algorithm
    :param results: result objects, or plain mappings of key to value
    """
    for result in results:
        for key, value in (result if isinstance(result, Mapping) else result.logged()).items():
            logger.record(key, value)
