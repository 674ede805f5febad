"""Run every case of conformance on each store, and rewrite the block of README.md that tells of them."""

from __future__ import annotations

import sys
from pathlib import Path

from shmfs import conformance
from shmfs.conformance import known, markdown, report
from shmfs.conformance.messages import Configuration, Outcome
from shmfs.conformance.runner import running


def run(store: str) -> list[Outcome]:
    """Every case on one store."""
    pages = "native" if store == "native" else "managed"
    outcomes = []
    with running(Configuration("", f"pages={pages}", extension=store != "no extension")) as runner:
        runner.start()
        if runner.target.store != store:
            sys.exit(f"conformance: asked for the store {store!r}, got {runner.target.store!r}")
        for name in conformance.load():
            outcomes.append(runner.run(name))
            if outcomes[-1].state == "differs":
                print(f"{store}: {name} differs: `shmfs conform -o pages={pages} -k {name}` shows how")
    return outcomes


def main() -> None:
    """Run, and write."""
    page = Path(sys.argv[1])
    counts = {store: report.count("all", run(store)) for store in known.STORES}
    page.write_text(markdown.replaced(page.read_text(), markdown.block(counts)))
    for store, count in counts.items():
        print(
            f"{store}: {count.cases} cases, {count.agree} agree, {count.known} known, {count.differ} differ"
        )
    sys.exit(any(count.differ for count in counts.values()))


if __name__ == "__main__":
    main()
