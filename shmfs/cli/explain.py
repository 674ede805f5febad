"""`shmfs explain`."""

from typing import TYPE_CHECKING

import click

from shmfs.cli import output

if TYPE_CHECKING:
    from shmfs.explain.story import Teller

STORES = {"managed": ("managed",), "native": ("native",), "both": ("managed", "native")}

_EPILOG = """\b
Examples:
  shmfs explain
  shmfs explain --pause map full
  shmfs explain --pages native --json
"""


@click.command("explain", epilog=_EPILOG, short_help="Tell the life of shared memory, live, step by step.")
@click.option("--pause", is_flag=True, help="Wait for Enter after each step.")
@click.option(
    "--pages",
    type=click.Choice(list(STORES)),
    default="both",
    show_default=True,
    help="Which store; both where the machine permits.",
)
@output.json_option("all steps, figures and claims")
@click.argument("chapters", metavar="[CHAPTER]...", nargs=-1)
def explain(pause: bool, pages: str, as_json: bool, chapters: tuple[str, ...]) -> None:
    """Show what mmap does, on two real processes: VMAs, page tables, frames, faults, and what shmfs logs.

    Everything is measured while you look, on a mount of its own, and each claim is checked: the exit status
    is 1 if one does not hold.
    """
    from shmfs.explain import story

    tellers = [story.Teller(store, chapters) for store in STORES[pages]]
    for teller in tellers:
        if as_json:
            for _ in teller.steps():
                pass
        else:
            _print(teller, pause=pause)
    tellings = [teller.telling for teller in tellers]
    if as_json:
        output.print_json(tellings)
    raise click.exceptions.Exit(1 if story.failed(tellings) else 0)


def _print(teller: "Teller", *, pause: bool) -> None:
    from shmfs.explain import render

    console = output.console()
    console.width = min(console.width, 120)
    output.emit(console, *render.terms(console.width))
    shown = None
    number = 0
    for chapter, step in teller.steps():
        if chapter is not shown:
            output.emit(console, *render.heading(chapter, teller.telling.store))
            shown = chapter
        if step is None:
            continue
        number += 1
        output.emit(console, *render.step(step, number, console.width))
        if pause:
            click.prompt("", prompt_suffix="", default="", show_default=False)
