"""A library of 20,000 molecules with 1 % bad rows through `molfeat-diffusion featurize`, every row accounted for.

Small molecules (QM9's SMILES), so that it takes minutes. Bad rows of each kind stand at random places; salts and
doubled ids, which are no failures, too. Checked: order, ids, that exactly the bad rows are NaN and in the failure
table, and that rows drawn at random have the features that they have alone.

    python benchmarks/featurize_library.py qm9_40k_smiles.txt.gz --out featurize_library.json
"""

from __future__ import annotations

import argparse
import csv
import gzip
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from molfeat_diffusion import MiDiFeaturizer
from priors_shared.devices import hardware
from priors_shared.options import say
from priors_shared.reports import write_result

BAD = {
    "unreadable": "C1CC",
    "empty": "",
    "words": "not a molecule",
    "valence": "C(C)(C)(C)(C)C",
    "metal": "[Fe]CC",
    "element": "CC[Se]C",
    "charge": "[C-4]",
    "too large": "C" * 250,
    "wildcard": "*CC",
}
SALT = "CC(=O)[O-].[Na+]"


def library(source: Path, rows: int, seed: int) -> tuple[list[tuple[str, str]], dict[int, str]]:
    """(id, SMILES) of each row, and the kind of each bad one."""
    with gzip.open(source, "rt") as file:
        known = [line.strip() for line in file if line.strip()]
    rng = np.random.default_rng(seed)
    smiles = [known[i] for i in rng.permutation(len(known))[:rows]]
    places = rng.permutation(rows)
    bad = {int(place): list(BAD)[i % len(BAD)] for i, place in enumerate(places[: rows // 100])}
    for place, kind in bad.items():
        smiles[place] = BAD[kind]
    for place in places[rows // 100 : rows // 100 + 20]:
        smiles[int(place)] = SALT
    names = [f"m{i}" for i in range(rows)]
    for place in places[rows // 100 + 20 : rows // 100 + 40]:
        names[int(place)] = "m0"
    return list(zip(names, smiles, strict=True)), bad


def main() -> None:
    """Run, check, print, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="gzipped SMILES, one a line")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--checkpoint", default="midi-cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    table, bad = library(options.source, options.rows, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        with open(where / "library.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "smiles"), *table])
        command = ["featurize", "library.csv", "--id-column", "id", "--smiles-column", "smiles"]
        command += ["--checkpoint", str(options.checkpoint), "-o", "features.parquet"]
        program = [sys.executable, "-c", "from molfeat_diffusion.cli import main; main()"]
        began = time.perf_counter()
        subprocess.run([*program, *command, "--threads", "1"], cwd=where, check=True)
        seconds = time.perf_counter() - began
        found = pq.read_table(where / "features.parquet").to_pandas()
        with open(where / "features.parquet.failures.csv", newline="", encoding="utf-8") as file:
            report = list(csv.DictReader(file))
    assert list(found["id"]) == [name for name, _ in table], "ids or order changed"
    features = found[[c for c in found.columns if c.startswith("midi_")]].to_numpy(np.float32)
    failed = {int(row["row"]): row["stage"] for row in report if row["failed"] == "yes"}
    without = set(np.flatnonzero(~np.isfinite(features).all(1)).tolist())
    assert without == set(failed), "rows without features and the failure table differ"
    assert set(bad) <= set(failed), "a bad row has features"
    others = {row: failed[row] for row in set(failed) - set(bad)}
    # No draw of good rows may be made a failure silently: each is in the table with its reason.
    say(f"{len(failed)} rows failed: {len(bad)} bad ones, and {len(others)} others {others}")
    good = sorted(set(range(len(table))) - without)
    some = np.random.default_rng(options.seed).choice(good, 40, replace=False)
    alone = MiDiFeaturizer(options.checkpoint).transform([table[i][1] for i in some])
    largest = float(np.abs(alone - features[some]).max())
    assert largest < 1e-3, f"rows differ from what they are alone, by {largest}"
    stages = dict(Counter(failed.values()))
    notes = sum(row["failed"] == "no" for row in report)
    say(f"{len(table):,} rows in {seconds:.0f} s; failures by stage {stages}; {notes} notes")
    if options.out:
        row = {"rows": len(table), "bad_rows": len(bad), "failed": len(failed), "notes": notes}
        row |= {"other_failures": len(others), "seconds": seconds, "largest_difference": largest}
        write_result(
            options.out,
            experiment="featurize_library",
            claim="20,000 rows with 1 % bad ones go through in one command, every row accounted for",
            rows=[row | {"stages": stages}],
            config={"checkpoint": str(options.checkpoint), "kinds": list(BAD)},
            seeds=[options.seed],
            data=f"{options.source.name}, bad rows made",
            hardware=hardware(),
            command=shlex.join(
                ["python", "benchmarks/featurize_library.py", *(Path(a).name for a in sys.argv[1:])]
            ),
        )


if __name__ == "__main__":
    main()
