"""Where the time of featurizing goes: conformers, the network, and for scale ECFP4 and RDKit descriptors.

CPU seconds of one thread on drug-like molecules, the stages apart; the network sees molecules that have a structure.

    python benchmarks/featurize.py bbbp.csv.gz --molecules 300 --out featurize.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molfeat_diffusion import MiDiFeaturizer
from molfeat_diffusion.config import SHIPPED_MIDI, ConformerConfig
from molfeat_diffusion.data.conformers import embed, parse
from molfeat_diffusion.data.molecules import MoleculeError
from molfeat_diffusion.data.tables import read_rows
from molfeat_diffusion.featurizers.descriptors import DescriptorFeaturizer
from molfeat_diffusion.pretrained import load_model
from priors_shared.devices import hardware
from priors_shared.options import say
from priors_shared.reports import write_result


def drawn(source: Path, count: int, seed: int) -> list[str]:
    """Canonical SMILES of different molecules that the shipped model can read."""
    vocabulary = load_model(SHIPPED_MIDI)[0].vocabulary
    found = set()
    for row in read_rows(source, smiles_column=None, id_column=None):
        try:
            found.add(parse(row.molecule, vocabulary, max_atoms=100).content)
        except MoleculeError:
            continue
    names = sorted(found)
    order = np.random.default_rng(seed).permutation(len(names))[:count]
    return [names[i] for i in order]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def main() -> None:
    """Measure, print, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="table with SMILES")
    parser.add_argument("--molecules", type=int, default=300)
    parser.add_argument("--checkpoint", default=SHIPPED_MIDI)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    smiles = drawn(options.source, options.molecules, options.seed)
    config = ConformerConfig()

    def conformers() -> list[Any]:
        mols = []
        for text in smiles:
            try:
                mols.append(embed(parse(text, None), config, options.seed))
            except MoleculeError as error:
                say(f"{text}: {error.stage}: {error.reason}")
        return mols

    mols, seconds = timed(conformers)
    rows: list[dict[str, Any]] = [{"stage": "conformers (ETKDGv3, MMFF94)", "seconds": seconds}]
    layers = load_model(options.checkpoint)[0].config.network.layers
    for layer in sorted({1, (layers + 1) // 2, layers}):
        featurizer = MiDiFeaturizer(options.checkpoint, layer=layer).fit()
        featurizer.transform(mols[:2])  # what torch loads at the first use is not counted
        rows.append(
            {
                "stage": f"network, layers 1 to {layer} of {layers}",
                "seconds": timed(lambda f=featurizer: f.transform(mols))[1],
            }
        )
    for kind, name in (("ecfp4", "ECFP4"), ("rdkit2d", "RDKit 2D descriptors")):
        descriptors = DescriptorFeaturizer(kind)  # type: ignore[arg-type]
        rows.append({"stage": name, "seconds": timed(lambda d=descriptors: d.transform(smiles))[1]})
    for row in rows:
        row["molecules_per_second"] = len(mols) / row["seconds"]
        say(f"{row['stage']:<32} {row['molecules_per_second']:9.1f} molecules/s")
    heavy = float(np.mean([mol.GetNumHeavyAtoms() for mol in mols]))
    say(f"{len(mols)} molecules of {heavy:.1f} heavy atoms on average")
    if options.out:
        write_result(
            options.out,
            experiment="featurize",
            claim="conformers, not the network, take the time of featurizing",
            rows=rows,
            config={"threads": 1, "checkpoint": str(options.checkpoint)},
            seeds=[options.seed],
            data=f"{len(mols)} molecules of {options.source.name}, {heavy:.1f} heavy atoms on average",
            hardware=hardware(),
            command=shlex.join(
                ["python", "benchmarks/featurize.py", *(Path(a).name for a in sys.argv[1:])]
            ),
        )


if __name__ == "__main__":
    main()
