"""
Registers this package's algorithms with RL Zoo as soon as RL Zoo is imported, so that ``python -m rl_zoo3.train
--algo trpo_ext`` works with nothing else to type.

Python runs this module at every start, through the ``.pth`` file installed beside it. So it touches only modules that
Python has loaded anyway, puts one finder on ``sys.meta_path`` and leaves; everything else waits until some program
imports ``rl_zoo3``. Set the environment variable ``SB3_TRPO_EXT_NO_ZOO_HOOK=1`` to turn it off;
``python -m sb3_trpo_ext.zoo`` works without it.
"""

import os
import sys


class ZooFinder:
    """Finds ``rl_zoo3`` where everybody else does, and makes its loader register our algorithms after running it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "rl_zoo3":
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                try:
                    spec.loader = self._registering(spec.loader)
                except Exception as error:
                    _warn(error)
                return spec
        return None

    def _registering(self, loader):
        from copy import copy

        # A copy, because some loaders (zip files) serve several modules.
        loader = copy(loader)
        run = loader.exec_module

        def exec_module(module):
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            try:
                from sb3_trpo_ext.zoo import register

                register()
            except Exception as error:
                _warn(error)

        loader.exec_module = exec_module
        return loader


def _warn(error):
    import warnings

    warnings.warn(
        f"RL Zoo goes on without the algorithms of sb3_trpo_ext, which could not be registered: "
        f"{type(error).__name__}: {error}. To see where it fails, run: python -m sb3_trpo_ext.zoo train. "
        "To silence this warning, uninstall sb3-trpo-ext or set SB3_TRPO_EXT_NO_ZOO_HOOK=1.",
        RuntimeWarning,
        stacklevel=2,
    )


if not os.environ.get("SB3_TRPO_EXT_NO_ZOO_HOOK"):
    sys.meta_path.insert(0, ZooFinder())
