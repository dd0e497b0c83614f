"""``python -m tests.system.torture.fuzzing TARGET RUNS SEED FOLDER [MUTANT]``: one fuzzer.

It ends with 0 after so many runs, or with what it found on its stderr and the bytes in the folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

INPUT_BYTES_MAX = 2048

with atheris.instrument_imports(include=["meterd", "examples"]):
    from tests.system.torture.fuzzing.targets import SEEDS, TARGETS


def main() -> None:
    name, runs, seed, folder, *mutant = sys.argv[1:]
    if mutant:
        from tests.system.torture import mutants

        mutants.apply(mutant[0])
    corpus = Path(folder, "corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(SEEDS[name]):
        Path(corpus, str(number)).write_bytes(each)
    options = {
        "atheris_runs": runs,
        "seed": seed,
        "max_len": INPUT_BYTES_MAX,
        "artifact_prefix": f"{folder}{os.sep}",
        "print_final_stats": 1,
        "close_fd_mask": 1,
    }
    given = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *given, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
