"""Which molecules are the same, however drawn: what evaluation sets hold stays out of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from rdkit import Chem, rdBase

from molfeat_diffusion.data.sources import read_source
from priors_shared.console import Progress


def connectivity(source: Any, max_heavy_atoms: int | None = None) -> str | None:
    """First block of the InChIKey of a molecule's largest fragment; None: it has none, or is too large.

    Equal for stereoisomers, protonation states, isotopes and salts of one molecule.
    """
    with rdBase.BlockLogs():
        try:
            mol = source() if callable(source) else source
            mol = Chem.MolFromSmiles(mol) if isinstance(mol, str) else mol
            parts = Chem.GetMolFrags(mol, asMols=True)
            largest = max(parts, key=lambda m: (m.GetNumHeavyAtoms(), m.GetNumAtoms()))
            if max_heavy_atoms is not None and largest.GetNumHeavyAtoms() > max_heavy_atoms:
                return None
            return Chem.MolToInchiKey(largest)[:14] or None
        except Exception:  # RDKit's own, of many kinds; such a molecule is not used for anything
            return None


def connectivities(
    sources: Sequence[str],
    *,
    data_root: Path | None,
    max_heavy_atoms: int | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> set[str]:
    """What `load_molecules` excludes: connectivities of the molecules of files, up to a size.

    Raises:
        UserError: a source that is not there or unreadable.
    """
    items = [item for source in sources for item in read_source(source, data_root)]
    parts = [items[i : i + 1000] for i in range(0, len(items), 1000)]
    found: set[str] = set()
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(lambda part: {connectivity(item, max_heavy_atoms) for item in part})(part)
        for part in parts
    )
    with Progress(len(parts), "exclude", quiet=quiet) as progress:
        for keys in results:
            found |= keys
            progress.advance()
    return found - {None}
