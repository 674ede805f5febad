"""Make a program that differs smaller."""

from collections.abc import Callable, Iterator

from tests.search.program import Program, Step, with_roles

REPEATS = 3
"""How often a program is run before it counts as one that does not differ: threads and timers vary."""


def shrink(
    program: Program, differs: Callable[[Program], list[str]], tries: int = 80
) -> tuple[Program, list[str]]:
    """Return the smallest program found, and its differences; none where it does not differ again."""

    def again(one: Program) -> list[str]:
        nonlocal tries
        for _ in range(REPEATS):
            tries -= 1
            if found := differs(one):
                return found
        return []

    best = again(program) or again(program)
    if not best:
        return program, []
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for candidate in _smaller(program):
            if tries <= 0:
                break
            if found := again(candidate):
                program, best, smaller = candidate, found, True
                break
    return program, best


def _smaller(program: Program) -> Iterator[Program]:
    """Programs with some steps less: large parts first."""
    roles = [list(steps) for steps in program.roles]
    for number in range(len(roles) - 1, 0, -1):
        if roles[number]:
            yield _tidy(program, [[] if at == number else steps for at, steps in enumerate(roles)])
    total = max(map(len, roles))
    part = max(1, total // 2)
    while part:
        for number, steps in enumerate(roles):
            for first in range(0, len(steps), part):
                left = steps[:first] + steps[first + part :]
                gone = steps[first : first + part]
                if not any(step.name == "gate" for step in gone) and (part == 1 or len(steps) >= part):
                    yield _tidy(program, [left if at == number else one for at, one in enumerate(roles)])
        part //= 2


def _tidy(program: Program, roles: list[list[Step]]) -> Program:
    """Without what starts a role that is empty, and without roles that nothing starts."""
    starts = ("fork", "daemon", "thread", "exec")
    while True:
        reached = {0} | {step.arguments[0] for steps in roles for step in steps if step.name in starts}
        tidied = [
            [step for step in steps if step.name not in starts or roles[step.arguments[0]]]
            if at in reached
            else []
            for at, steps in enumerate(roles)
        ]
        if tidied == roles:
            return with_roles(program, roles)
        roles = tidied
