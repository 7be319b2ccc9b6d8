"""What the programs that try things from outside share: a line for each case, and waiting."""

import time


class Cases:
    """Prints a line for each case and counts them."""

    def __init__(self, prefix=""):
        self.prefix, self.passed, self.failed = prefix, 0, 0

    def __call__(self, name, problem=None):
        self.passed, self.failed = self.passed + (not problem), self.failed + bool(problem)
        name = self.prefix + name
        print(f"FAILED {name}: {problem}" if problem else f"ok {name}", flush=True)


def wait(what, holds, seconds=30):
    """Until it holds; a connection that is refused is only too early."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if holds():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what} did not come about in {seconds} s")
