"""What the scripts of `cargo xtask conformance` have in common: their arguments, their cases in order, and the line that
each comes to: `ok NAME`, `differs NAME: how`, or `FAILED NAME: why`.

A script registers functions by `@case("NAME")` and ends with `run(...)`, which says what it needs besides the address.
"""

import argparse
import asyncio
import faulthandler
import inspect
import pathlib
import sys

# A client that waits for ever must not stop the run: the script ends with the place where it waits.
LIMIT = 100

_cases = []


class Different(Exception):
    """What was found is not what was expected."""


def case(name):
    """Registers a function, or a coroutine function, as a case; it is given the script's arguments. A sentence that it
    returns says how an answer that is right differs from another server's."""

    def register(function):
        _cases.append((name, function))
        return function

    return register


def run(*needs):
    """Runs the registered cases and prints their lines; exit code 1 when one failed. `needs` are further arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True, help="HOST:PORT of the server")
    parser.add_argument("--only", help="run the cases whose names contain this")
    for need in needs:
        parser.add_argument(f"--{need}", required=True, type=pathlib.Path if need == "folder" else str)
    arguments = parser.parse_args()
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    failed = 0
    for name, function in _cases:
        if arguments.only and arguments.only not in name:
            continue
        try:
            outcome = function(arguments)
            if inspect.isawaitable(outcome):
                outcome = asyncio.run(outcome)
            line = f"ok {name}" if outcome is None else f"differs {name}: {one_line(outcome)}"
        except Exception as error:
            failed += 1
            kind = "" if isinstance(error, Different) else f"{type(error).__name__}: "
            line = f"FAILED {name}: {kind}{one_line(error)}"
        print(line, flush=True)
    sys.exit(1 if failed else 0)


def one_line(what):
    """A text for a line of the table."""
    text = " ".join(str(what).split())
    return text if len(text) <= 400 else text[:400] + "…"


def same(found, expected, what="the answer"):
    """Fails unless the two are equal."""
    if found != expected:
        raise Different(f"{what} is {found!r}, not {expected!r}")


def holds(condition, otherwise):
    """Fails with the sentence unless the condition holds."""
    if not condition:
        raise Different(otherwise)


def near(found, expected, what="the answer", tolerance=3e-5):
    """Fails unless all numbers of two lists, or arrays, agree up to what sums round."""
    found, expected = [float(value) for value in found], [float(value) for value in expected]
    same(len(found), len(expected), f"the length of {what}")
    apart = max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)
    holds(apart <= tolerance, f"{what} differs by {apart:.1e}")
