"""The commands of the guide run in the installation that those of the zoo's tests run in."""

from tests.zoo.conftest import install, installation

__all__ = ["install", "installation"]
