"""Processes that call Python functions which may end them: emulated kernels that fault, also under sanitizers."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from gpu_on_cpu import process
from gpu_on_cpu.cuda import watch
from gpu_on_cpu.errors import KernelFault

T = TypeVar("T")
# The C++ of Python and torch was not built with the sanitizer: what it does to memory says nothing.
_TSAN = ":ignore_noninstrumented_modules=1"


class Worker:
    """A process that stays, in which functions are called one after another.

    Args:
        sanitizer: with whose runtime it starts: "none", "address" or "thread".
    """

    def __init__(self, sanitizer: str = "none") -> None:
        self.sanitizer = sanitizer
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, function: Callable[..., T], *args: Any, timeout: float = 300.0, **kwargs: Any) -> T:
        """Calls a function of a module there; the next call is in the same process, if it has survived.

        Args:
            function, args, kwargs: can be pickled. Tensors are copied, so that those of the caller do not change.
            timeout: seconds until it counts as a hang.

        Raises:
            KernelFault: the process died of it; with the emulator's or the sanitizer's report.
            Exception: whatever the function raised.
        """
        if self._process is None:
            self._start()
        assert self._process
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send_bytes(pickle.dumps((function, args, kwargs)))
        try:
            if not self._pipe.poll(timeout):
                raise self._fault(f"hang: not finished after {timeout:g} s")
            succeeded, value = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._fault() from None
        if not succeeded:
            raise value
        return value

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._report = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        preloaded = watch.runtime_libraries(self.sanitizer)
        environment = {
            **os.environ,
            **watch.OPTIONS,
            watch.REPORTS: "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        environment["TSAN_OPTIONS"] += _TSAN
        environment["OMP_NUM_THREADS"] = "1"
        if preloaded:
            environment["LD_PRELOAD"] = " ".join(preloaded)
        prefix = watch.fixed_addresses() if self.sanitizer == "thread" else []
        command = [*prefix, sys.executable, "-c", f"from gpu_on_cpu.cuda.worker import serve; serve({theirs.fileno()})"]
        self._process = subprocess.Popen(command, env=environment, stderr=self._report, pass_fds=[theirs.fileno()])
        theirs.close()

    def _fault(self, hang: str = "") -> KernelFault:
        """What a process that does not answer has said; it is no more."""
        assert self._process
        if hang:
            self._process.kill()
        status = self._process.wait()
        self._report.seek(0)
        report = self._report.read().decode(errors="replace")
        self.close()
        return watch.located(process.fault_from(report, hang or process.reason(status)))

    def close(self) -> None:
        """Ends the process; another call starts a new one."""
        if self._process is not None:
            self._pipe.close()  # at which it ends
            self._process.wait()
            self._report.close()
            self._process = None


@contextlib.contextmanager
def workers() -> Iterator[Callable[[str], Worker]]:
    """A function that gives the worker of a sanitizer, started when it is first used and ended with the context."""
    started: dict[str, Worker] = {}
    try:
        yield lambda sanitizer: started.setdefault(sanitizer, Worker(sanitizer))
    finally:
        for worker in started.values():
            worker.close()


def serve(descriptor: int) -> None:
    """Answers calls until the other side goes away."""
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _answer(request: bytes) -> bytes:
    """(True, result) or (False, exception), pickled."""
    try:
        function, args, kwargs = pickle.loads(request)
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:
        told = traceback.format_exc()
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"in the worker:\n{told}")
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)
            return answer
        except Exception:  # it cannot be pickled
            return pickle.dumps((False, RuntimeError(told)))
