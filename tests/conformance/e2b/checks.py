"""Counts what holds: one line a check, `ok …` or `FAILED …`."""

import contextlib
import os
import sys
import threading
import time
import traceback

# A check that hangs ends the program as failed, instead of the whole run's patience.
PATIENCE = 90


class Checks:
    def __init__(self, title):
        self.title, self.ok, self.failed, self.area = title, 0, [], ""

    @contextlib.contextmanager
    def __call__(self, what):
        """One check: its body holds, or it throws."""
        what = f"{self.title} {self.area}: {what}"
        watchdog = threading.Timer(PATIENCE, self.hung, [what])
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except Exception as error:
            self.fail(what, error)
        else:
            self.ok += 1
            print(f"ok     {what}", flush=True)
        finally:
            watchdog.cancel()

    @contextlib.contextmanager
    def whole(self):
        """An area: what it throws outside of its checks is a failure too, and the next area goes on."""
        try:
            yield
        except Exception as error:
            self.fail(f"{self.title} {self.area}: is gone through to its end", error)

    def fail(self, what, error):
        self.failed.append(what)
        frames = [f for f in traceback.extract_tb(error.__traceback__) if os.path.dirname(f.filename) == HERE]
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
        text = f"{type(error).__name__}: {error}".strip()
        print(f"FAILED {what}\n       {place}: {text[:1500]}", flush=True)

    def hung(self, what):
        print(f"FAILED {what}\n       not over after {PATIENCE} s", flush=True)
        self.failed.append(what)
        self.tell()
        os._exit(1)

    def tell(self):
        print(f"{self.title}: {self.ok} ok, {len(self.failed)} FAILED", flush=True)

    def end(self):
        """The exit code."""
        self.tell()
        return 1 if self.failed or not self.ok else 0


HERE = os.path.dirname(os.path.abspath(__file__))


def same(seen, expected):
    if seen != expected:
        raise AssertionError(f"{shortened(seen)} instead of {shortened(expected)}")


def shortened(value):
    text = repr(value)
    return text if len(text) < 600 else f"{text[:300]} … {text[-300:]} ({len(text)} characters)"


def holds(truth, seen=""):
    if not truth:
        raise AssertionError(f"it does not hold: {shortened(seen)}")


def raises(kinds, act, text=""):
    """What `act` throws, which must be of `kinds` and say `text`."""
    try:
        answer = act()
    except kinds as error:
        if text not in str(error):
            raise AssertionError(f"{type(error).__name__} does not say {text!r}: {error}") from error
        return error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of {kinds}: {error}") from error
    raise AssertionError(f"nothing was thrown, it answered {shortened(answer)}")


def until(what, act, limit=30):
    """Waits until `act` answers something true, and answers that."""
    end = time.monotonic() + limit
    while True:
        answer = act()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.05)


def wanted(areas):
    """Those named on the command line, or all."""
    names = sys.argv[1:]
    return [area for area in areas if not names or area.__name__ in names]
