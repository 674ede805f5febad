"""The part of README.md that says how far shmfs does as tmpfs does: made from a run, not by hand."""

from collections.abc import Sequence

from shmfs.conformance import known
from shmfs.conformance.report import Count

BEGIN = "<!-- conformance: ./scripts/conformance writes this -->"
END = "<!-- /conformance -->"

TITLES = {"managed": "managed", "native": "native", "no extension": "managed, without the C extension"}


def block(counts: dict[str, Count]) -> str:
    """The figures of every store, and the table of known differences."""
    columns = [counts[store] for store in known.STORES]
    rows = [
        _row("", [TITLES[store] for store in known.STORES]),
        _row("---", ["---"] * len(columns)),
        _row("cases", [str(one.cases) for one in columns]),
        _row("agree with tmpfs", [str(one.agree) for one in columns]),
        _row("differ as is known", [str(one.known) for one in columns]),
        _row("differ otherwise", [str(one.differ) for one in columns]),
    ]
    if any(one.not_run for one in columns):
        rows.append(_row("not run", [str(one.not_run) for one in columns]))
    rows += ["", _row("known difference", ["why", "where", "cases"]), _row("---", ["---"] * 3)]
    for reason, stores in known.by_reason().items():
        rows.append(
            _row(reason.what, [reason.why, _where(list(stores)), str(max(map(len, stores.values())))])
        )
    return "\n".join([BEGIN, *rows, END])


def replaced(text: str, new: str) -> str:
    """A page with its block made anew; raises ValueError where it has none."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"there is no block between {BEGIN} and {END}")
    return before + new + after


def foreseen(cases: int) -> dict[str, Count]:
    """The figures as they are when every case comes out as the table of known differences has it."""
    numbers = {store: len({name for name, _ in known.reasons(store)}) for store in known.STORES}
    return {store: Count("all", cases, cases - number, number, 0, 0) for store, number in numbers.items()}


def _row(first: str, rest: Sequence[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"


def _where(stores: list[str]) -> str:
    if len(stores) == len(known.STORES):
        return "all"
    return "managed" if stores == ["managed", "no extension"] else ", ".join(TITLES[one] for one in stores)
