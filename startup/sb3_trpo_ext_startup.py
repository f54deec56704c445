"""
Registers this package's algorithms with RL Zoo as soon as RL Zoo is imported, so that ``python -m rl_zoo3.train
--algo trpo_ext`` works with nothing else to type.

Python calls :func:`install` at every start: from Python 3.15 on through the ``.start`` file beside this module (PEP
829), before through the ``.pth`` file, whose ``import`` lines end with Python 3.18. So it touches only modules that
Python has loaded anyway, puts one finder on ``sys.meta_path`` and leaves; everything else waits until some program
imports ``rl_zoo3``. Set the environment variable ``SB3_TRPO_EXT_NO_ZOO_HOOK=1`` to turn it off;
``python -m sb3_trpo_ext.zoo`` works without it.
"""

import os
import sys
from _thread import get_ident  # threading itself would have to be loaded first

#: The modules that hold what we register in. Each is registered in by itself, as soon as it has run: a program may
#: import one of them again, and to wait for another may be to wait for a thread that waits for this one.
ZOO = ("rl_zoo3.utils", "rl_zoo3.hyperparams_opt", "rl_zoo3.exp_manager")


def install():
    """Watch for RL Zoo, unless that is turned off or done already."""
    watched = any(isinstance(finder, ZooFinder) for finder in sys.meta_path)
    if not watched and not os.environ.get("SB3_TRPO_EXT_NO_ZOO_HOOK"):
        sys.meta_path.insert(0, ZooFinder())


class ZooFinder:
    """
    Finds RL Zoo's modules where everybody else does, and has our algorithms registered after they have run.

    Whenever it can not help it finds nothing. Then Python asks the other finders, and the program gets the module or
    the error that it would have got without this finder.
    """

    def __init__(self):
        self.searches = set()  # under way: (thread, name of the module)
        self.has_warned = False

    def find_spec(self, fullname, path=None, target=None):
        """
        As ``importlib.abc.MetaPathFinder`` has it.

        :param fullname: of a module
        :param path: of the package that it is in
        :param target: the module, when it is loaded again
        :return: what another finder found; None for modules that are not RL Zoo's, or if it can not be told
        """
        search = (get_ident(), fullname)
        # A finder that asks all the others, as this one does, may ask us while we ask it.
        if fullname not in ZOO or search in self.searches:
            return None
        self.searches.add(search)
        try:
            spec = self._ask_others(fullname, path, target)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                spec.loader = RegisteringLoader(self, spec)
            return spec
        except Exception:
            # Python asks that finder again, and shows the error as its own.
            return None
        finally:
            self.searches.discard(search)

    def _ask_others(self, fullname, path, target):
        """What Python would find next, without us."""
        finders = list(sys.meta_path)
        # Those in front of us were asked before. We are not in the list where somebody put wrappers around its finders.
        if self in finders:
            finders = finders[finders.index(self) + 1 :]
        for finder in finders:
            if hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
            elif sys.version_info < (3, 12) and finder.find_module(fullname, path) is not None:
                # A finder of the old kind, which Python 3.12 and later pass over. The module is for it to load.
                return None
        return None

    def register(self, module):
        """
        Register our algorithms; if that fails, say so once and let RL Zoo go on.

        :param module: of RL Zoo, which has run
        """
        try:
            from sb3_trpo_ext.zoo import register_in

            register_in(module)
        except Exception as error:
            if not self.has_warned:
                self.has_warned = True
                _warn(error)


class RegisteringLoader:
    """
    Stands in for a module's loader until the module runs, when it puts that loader back.

    It changes nothing of the loader itself, which may be a class, or serve several modules.

    :param finder: that registers
    :param spec: of the module, with its own loader
    """

    def __init__(self, finder, spec):
        self.finder, self.spec, self.loader = finder, spec, spec.loader

    def __getattr__(self, name):
        # Whoever copies a loader asks for special methods before the copy has any attribute.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.loader, name)

    def exec_module(self, module):
        """
        Run the module, then register.

        :param module: of RL Zoo
        """
        self.spec.loader = self.loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.finder.register(module)


def _warn(error):
    """
    :param error: for which our algorithms could not be registered
    """
    import warnings

    text = (
        f"RL Zoo goes on without the algorithms of sb3_trpo_ext, which could not be registered: "
        f"{type(error).__name__}: {error}. To see where it fails, run: python -m sb3_trpo_ext.zoo train. "
        "To silence this warning, uninstall sb3-trpo-ext or set SB3_TRPO_EXT_NO_ZOO_HOOK=1."
    )
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except Exception:
        # Where warnings are errors. An error here would be RL Zoo's.
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
