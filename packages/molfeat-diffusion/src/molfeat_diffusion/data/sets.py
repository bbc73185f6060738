"""Molecules to train on: QM9, structure files, SMILES files; packed into plain arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from joblib import Parallel, delayed
from rdkit import Chem
from torch import Tensor
from torch_geometric.data import Data

from molfeat_diffusion.config import ConformerConfig
from molfeat_diffusion.data.conformers import embed, parse
from molfeat_diffusion.data.exclusion import connectivity
from molfeat_diffusion.data.molecules import (
    BOND_INDEX,
    BOND_TYPES,
    DenseMolecules,
    Marginals,
    MoleculeError,
    Vocabulary,
    graph_from_mol,
    mols_from_dense,
)
from molfeat_diffusion.data.sources import read_source
from priors_shared.console import Progress
from priors_shared.errors import UserError

QM9 = Path("molecules") / "qm9_40k.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeSet:
    """Graphs, end to end in arrays: as small as they get, and one file on disk."""

    vocabulary: Vocabulary
    sizes: np.ndarray
    """(molecules) atoms of each"""
    atoms: np.ndarray
    """(all atoms) uint8 index of the element"""
    charges: np.ndarray
    """(all atoms) uint8 index of the charge"""
    positions: np.ndarray
    """(all atoms, 3) float32, angstrom, each molecule centred"""
    bond_counts: np.ndarray
    """(molecules) bonds of each"""
    bonds: np.ndarray
    """(all bonds, 3) uint8: both atoms within the molecule, and the bond type"""

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.sizes)

    def graph(self, index: int) -> Data:
        """One molecule."""
        a, b = self._atom_ends[index], self._bond_ends[index]
        atoms = slice(int(a - self.sizes[index]), int(a))
        rows = self.bonds[int(b - self.bond_counts[index]) : int(b)].astype(np.int64)
        ends = torch.from_numpy(rows[:, :2]).T
        kinds = torch.from_numpy(rows[:, 2])
        return Data(
            x=torch.from_numpy(self.atoms[atoms].astype(np.int64)),
            charges=torch.from_numpy(self.charges[atoms].astype(np.int64)),
            pos=torch.from_numpy(self.positions[atoms]),
            edge_index=torch.cat((ends, ends.flip(0)), dim=1),
            edge_attr=torch.cat((kinds, kinds)),
            num_nodes=int(self.sizes[index]),
        )

    def batch(self, indices: Sequence[int] | np.ndarray) -> DenseMolecules:
        """Molecules as one dense batch: what `collate` makes of their graphs, without a loop over them."""
        chosen = np.asarray(indices, dtype=np.int64)
        sizes, counts = self.sizes[chosen].astype(np.int64), self.bond_counts[chosen]
        width = int(sizes.max())
        real = np.arange(width) < sizes[:, None]
        atoms = _joined(self._atom_ends[chosen] - sizes, sizes)
        rows = self.bonds[_joined(self._bond_ends[chosen] - counts, counts)].astype(np.int64)
        molecule = np.repeat(np.arange(len(chosen)), counts)
        positions = np.zeros((*real.shape, 3), dtype=np.float32)
        types, charges = (np.zeros(real.shape, dtype=np.int64) for _ in range(2))
        bonds = np.zeros((*real.shape, width), dtype=np.int64)
        positions[real], types[real] = self.positions[atoms], self.atoms[atoms]
        charges[real] = self.charges[atoms]
        bonds[molecule, rows[:, 0], rows[:, 1]] = rows[:, 2]
        bonds[molecule, rows[:, 1], rows[:, 0]] = rows[:, 2]
        return DenseMolecules(
            positions=torch.from_numpy(positions),
            atoms=torch.from_numpy(types),
            charges=torch.from_numpy(charges),
            bonds=torch.from_numpy(bonds),
            mask=torch.from_numpy(real),
        )

    @cached_property
    def _atom_ends(self) -> np.ndarray:
        return self.sizes.cumsum(dtype=np.int64)

    @cached_property
    def _bond_ends(self) -> np.ndarray:
        return self.bond_counts.cumsum(dtype=np.int64)

    def subset(self, indices: Sequence[int]) -> MoleculeSet:
        """Some of the molecules, in the order given."""
        return pack((self.graph(int(i)) for i in indices), self.vocabulary)

    def marginals(self) -> Marginals:
        """How frequent each class is."""
        words = self.vocabulary
        pairs = float((self.sizes.astype(np.int64) * (self.sizes.astype(np.int64) - 1)).sum())
        bonds = 2.0 * np.bincount(self.bonds[:, 2], minlength=len(BOND_TYPES))
        bonds[0] = pairs - bonds.sum()
        counts = {
            "atoms": np.bincount(self.atoms, minlength=len(words.elements)),
            "charges": np.bincount(self.charges, minlength=len(words.charges)),
            "bonds": bonds,
        }
        return Marginals(**{k: torch.from_numpy(v / max(v.sum(), 1)) for k, v in counts.items()})

    def size_histogram(self) -> Int[Tensor, " sizes"]:
        """How many molecules have 0, 1, 2, ... atoms."""
        return torch.from_numpy(np.bincount(self.sizes))

    def save(self, path: Path) -> None:
        """Write to a .npz file, atomically."""
        pending = path.with_name(f"{path.name}.next")
        with open(pending, "wb") as file:
            np.savez_compressed(
                file,
                vocabulary=np.array(self.vocabulary.name),
                sizes=self.sizes,
                atoms=self.atoms,
                charges=self.charges,
                positions=self.positions,
                bond_counts=self.bond_counts,
                bonds=self.bonds,
            )
        pending.replace(path)


def load_packed(path: Path, vocabulary: Vocabulary) -> MoleculeSet:
    """What `MoleculeSet.save` wrote.

    Raises:
        UserError: no such file, another file, or of another vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        name = str(held.pop("vocabulary"))
        if name == vocabulary.name:
            _check_arrays(held, vocabulary)
            return MoleculeSet(vocabulary=vocabulary, **held)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # zipfile's, numpy's, or a key that is not there
        raise UserError(f"{path}: not a file of packed molecules ({error})") from None
    raise UserError(f"{path}: its molecules are packed for {name}, the model has {vocabulary.name}")


def _check_arrays(held: dict[str, np.ndarray], vocabulary: Vocabulary) -> None:
    """Raise a ValueError where arrays do not fit each other or the vocabulary."""
    atoms, bonds = int(held["sizes"].sum()), int(held["bond_counts"].sum())
    shapes = {
        "bond_counts": held["sizes"].shape,
        "atoms": (atoms,),
        "charges": (atoms,),
        "positions": (atoms, 3),
        "bonds": (bonds, 3),
    }
    for name, shape in shapes.items():
        if held[name].shape != shape:
            raise ValueError(f"{name} has shape {held[name].shape}, the others ask for {shape}")
    classes = {"atoms": len(vocabulary.elements), "charges": len(vocabulary.charges)}
    for name, count in classes.items():
        if (held[name] >= count).any():
            raise ValueError(f"{name} has a class that {vocabulary.name} lacks")
    ends = np.repeat(held["sizes"], held["bond_counts"])[:, None]
    if (held["bonds"][:, :2] >= ends).any() or (held["bonds"][:, 2] >= len(BOND_TYPES)).any():
        raise ValueError("bonds names an atom or a type that is not there")
    if not np.isfinite(held["positions"]).all() or (held["sizes"] < 1).any():
        raise ValueError("a position is not finite, or a molecule has no atom")


def pack(graphs: Any, vocabulary: Vocabulary) -> MoleculeSet:
    """Graphs as arrays."""
    parts: dict[str, list[Any]] = {
        name: [] for name in ("sizes", "atoms", "charges", "positions", "bond_counts", "bonds")
    }
    for graph in graphs:
        half = graph.edge_index.shape[1] // 2
        parts["sizes"].append(graph.num_nodes)
        parts["atoms"].append(graph.x.numpy())
        parts["charges"].append(graph.charges.numpy())
        parts["positions"].append(graph.pos.numpy())
        parts["bond_counts"].append(half)
        rows = (graph.edge_index[:, :half].T.numpy(), graph.edge_attr[:half, None].numpy())
        parts["bonds"].append(np.concatenate(rows, axis=1))

    def joined(name: str, dtype: Any, width: tuple[int, ...] = ()) -> np.ndarray:
        return np.concatenate([np.empty((0, *width)), *parts[name]]).astype(dtype)

    return MoleculeSet(
        vocabulary=vocabulary,
        sizes=np.array(parts["sizes"], dtype=np.int32),
        atoms=joined("atoms", np.uint8),
        charges=joined("charges", np.uint8),
        positions=joined("positions", np.float32, (3,)),
        bond_counts=np.array(parts["bond_counts"], dtype=np.int32),
        bonds=joined("bonds", np.uint8, (3,)),
    )


def load_molecules(
    sources: Sequence[str],
    vocabulary: Vocabulary,
    *,
    data_root: Path | None,
    max_atoms: int,
    max_molecules: int | None = None,
    seed: int = 0,
    exclude: Collection[str] = (),
    kekulize: bool = False,
    jobs: int = 1,
    quiet: bool = False,
) -> tuple[MoleculeSet, Counter[str]]:
    """Molecules of all sources, and how many were left out, by reason.

    Args:
        sources: see `TrainConfig.data`.
        vocabulary: of the model.
        data_root: folder that holds molecules/qm9_40k.npz.
        max_atoms: larger ones are left out.
        max_molecules: as many, drawn by `seed` before conformers are made.
        seed: of that and of conformers.
        exclude: connectivities (see `connectivity`) of molecules that must not be among them; .npz files hold
            what was checked before, and are taken as they are.
        kekulize: see `graph_from_mol`; .npz files must have been prepared so.
        jobs: processes that make conformers.
        quiet: no progress.

    Raises:
        UserError: a source that is not there or unreadable, aromatic bonds where there must be none, or no
            molecule left.
    """
    items: list[Any] = []
    packed: list[MoleculeSet] = []
    for source in sources:
        if source.endswith(".npz"):
            packed.append(load_packed(Path(source), vocabulary))
            if kekulize and (packed[-1].bonds[:, 2] == BOND_INDEX[Chem.BondType.AROMATIC]).any():
                raise UserError(
                    f"{source}: it holds aromatic bonds, and the model has none: prepare it with kekulize"
                )
        else:
            items += read_source(source, data_root)
    graphs = [s.graph(i) for s in packed for i in range(len(s)) if s.sizes[i] <= max_atoms]
    if max_molecules is not None:
        total = len(graphs) + len(items)
        chosen = np.random.default_rng(seed).permutation(total)[:max_molecules]
        graphs = [graphs[i] for i in sorted(chosen) if i < len(graphs)]
        offset = total - len(items)
        items = [items[i - offset] for i in sorted(chosen) if i >= offset]
    left_out: Counter[str] = Counter()
    if exclude:
        # Before conformers are made, and here: the processes that make them need no copy of the set.
        kept = [item for item in items if connectivity(item) not in exclude]
        left_out["excluded: it is in an evaluation set"] = len(items) - len(kept)
        items = kept
    results = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_graph)(item, vocabulary, max_atoms, seed, kekulize) for item in items
    )
    with Progress(len(items), "molecules", quiet=quiet) as progress:
        for found in results:
            progress.advance()
            if isinstance(found, MoleculeError):
                left_out[f"{found.stage}: {found.reason.split(',')[0]}"] += 1
            else:
                graphs.append(found)
    if len(graphs) < 2:
        raise UserError(
            f"{', '.join(sources)}: {len(graphs)} usable molecules, a training needs 2 or more"
        )
    return pack(graphs, vocabulary), left_out


def load_mols(
    sources: Sequence[str], vocabulary: Vocabulary, data_root: Path | None, *, quiet: bool
) -> list[Chem.Mol]:
    """The molecules of sources as RDKit has them, however large."""
    known, _ = load_molecules(
        sources, vocabulary, data_root=data_root, max_atoms=10_000, quiet=quiet
    )
    return [mols_from_dense(known.batch([i]), vocabulary)[0] for i in range(len(known))]


def _graph(
    item: Any, vocabulary: Vocabulary, max_atoms: int, seed: int, kekulize: bool
) -> Data | MoleculeError:
    try:
        parsed = parse(item() if callable(item) else item, vocabulary, max_atoms=max_atoms)
        mol = embed(parsed, ConformerConfig(), seed)
        return graph_from_mol(mol, vocabulary, max_atoms=max_atoms, kekulize=kekulize)
    except MoleculeError as error:
        return error


def _joined(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each run, one after the other."""
    ends = lengths.cumsum()
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)


def split(molecules: MoleculeSet, share: float, seed: int) -> tuple[MoleculeSet, MoleculeSet]:
    """Training and validation molecules, drawn by the seed; at least one of each."""
    order = np.random.default_rng(seed).permutation(len(molecules)).tolist()
    held_out = min(max(1, round(share * len(molecules))), len(molecules) - 1)
    return molecules.subset(sorted(order[held_out:])), molecules.subset(sorted(order[:held_out]))
