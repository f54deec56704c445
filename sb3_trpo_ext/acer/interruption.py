"""What must not be left half done when a signal ends training."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C; those with which clusters announce the end; that of a timer. Without a handler in Python they end the process.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGALRM") if hasattr(signal, name)]


@contextmanager
def signals_wait() -> Iterator[None]:
    """
    While this context lasts, signals are kept back whose handlers may raise, as that of Ctrl-C raises
    ``KeyboardInterrupt``. The handlers are called when the context ends. Python calls them in the main thread only, so
    elsewhere there is nothing to wait for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    arrived: list[tuple[Any, ...]] = []
    for number in handlers:
        signal.signal(number, lambda *arguments: arrived.append(arguments))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for arguments in arrived:
            handlers[arguments[0]](*arguments)
