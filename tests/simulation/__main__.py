"""Lives one seed again: `python -m tests.simulation SEED --days 365`."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import click

from tests.simulation.world import World
from tests.system.torture.catalogue import empty_folder
from tests.system.torture.harnesses.simulation import HARNESS
from tests.system.torture.mutants import apply


@click.command()
@click.argument("seed", type=int)
@click.option("--days", default=366.0, show_default=True)
@click.option("--trace", type=click.Path(path_type=Path), help="Where to write all that happened.")
@click.option(
    "--mutant", type=click.Choice(HARNESS.mutants), help="A meterd with one promise taken out."
)
def main(seed: int, days: float, trace: Path | None, mutant: str | None) -> None:
    """Exit code 1 where a promise is broken."""
    apply(mutant)
    broke = False
    began = time.monotonic()
    with empty_folder() as folder:
        world = World(seed, folder, days, keep=trace is not None)
        try:
            world.run()
        except Exception as broken:  # noqa: BLE001 - whatever it is, it is what is looked for
            print(world.trace.tail(), file=sys.stderr)
            traceback.print_exception(broken, chain=False)
            broke = True
        finally:
            took_s = time.monotonic() - began
            if trace is not None:
                trace.write_text("\n".join(world.trace.lines))
            seen = ", ".join(f"{name} {count:,}" for name, count in world.trace.seen.most_common())
            print(f"seed {seed}: {seen}; trace {world.trace.sum()}")
            print(f"{days / 30.4 / took_s:.2f} simulated months a second")
    sys.exit(broke)


if __name__ == "__main__":
    main()
