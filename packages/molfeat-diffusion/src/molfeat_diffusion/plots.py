"""Figures: training curves, molecules, the table of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from molfeat_diffusion.evaluation import valid_smiles

_SAMPLE = (220, 190)  # pixels of a sampled molecule's picture


def training_figure(metrics: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """The weighted loss, and its terms on the validation molecules, over updates."""
    figure, right, validated = _loss_curves(metrics, title=title, ylabel="loss")
    steps = [m["step"] for m in validated]
    for name in ("positions", "atoms", "charges", "bonds"):
        values = [m[f"val_loss_{name}"] for m in validated]
        right.plot(steps, values, "o-", markersize=3, label=name)
    right.set(title="validation, by term", xlabel="updates", yscale="log")
    right.legend(frameon=False, fontsize="small")
    _tidy(right)
    return figure


def language_figure(metrics: Sequence[Mapping[str, Any]], *, title: str) -> Figure:
    """Cross-entropy of hidden tokens, and the share that is right, over updates."""
    ylabel = "cross-entropy of hidden tokens"
    figure, right, validated = _loss_curves(metrics, title=title, ylabel=ylabel)
    steps = [m["step"] for m in validated]
    right.plot(steps, [100 * m["val_accuracy"] for m in validated], "o-", markersize=3)
    right.set(title="validation", xlabel="updates", ylabel="hidden tokens right (%)")
    _tidy(right)
    return figure


def table_5_1_figure(
    per_split: Mapping[str, Mapping[str, Sequence[float]]],
    sweeps: Mapping[str, Mapping[str, float]],
    layers: Sequence[int],
    timesteps: Sequence[int],
) -> Figure:
    """AUROC of every row and split, a panel per dataset and n; below, where there is one, MiDi's sweep."""
    columns = [c for c in next(iter(per_split.values())) if c.startswith("AUROC")]
    swept = {name: values for name, values in sweeps.items() if values}
    wide = max(len(columns), len(swept))
    tall = 1 + bool(swept)
    figure = Figure(figsize=(2.6 * wide + 2, 3.6 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False)
    names = list(per_split)
    for axes, column in zip(panels[0], columns, strict=False):
        for y, name in enumerate(names):
            values = per_split[name][column]
            axes.plot(values, [y] * len(values), ".", color="0.7", markersize=4)
            axes.plot([sum(values) / len(values)], [y], "D", color="tab:blue", markersize=5)
        axes.set(title=column.removeprefix("AUROC "), xlabel="AUROC", ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names if axes is panels[0][0] else [""] * len(names))
        _tidy(axes)
    if swept:
        for axes, (name, points) in zip(panels[1], swept.items(), strict=False):
            for t in timesteps:
                axes.plot(layers, [points[f"{la}/{t}"] for la in layers], "o-", label=f"t = {t}")
            axes.set(
                title=f"{name}: MiDi's setting", xlabel="layer", ylabel="AUROC, cross-validated"
            )
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, fontsize="small")
        for axes in panels[1][len(swept) :]:
            axes.set_visible(False)
    return figure


def _loss_curves(
    metrics: Sequence[Mapping[str, Any]], *, title: str, ylabel: str
) -> tuple[Figure, Any, list[Mapping[str, Any]]]:
    """A figure with losses at its left; its empty right half, and the lines with a validation."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], label="training")
    validated = [m for m in metrics if "val_loss" in m]
    steps = [m["step"] for m in validated]
    left.plot(steps, [m["val_loss"] for m in validated], "o-", markersize=3, label="validation")
    left.set(title=title, xlabel="updates", ylabel=ylabel)
    left.legend(frameon=False, fontsize="small")
    _tidy(left)
    return figure, right, validated


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def save_molecules(path: Path, molecules: Sequence[Chem.Mol], *, columns: int = 6) -> None:
    """A grid of structural formulas as .png; invalid molecules are drawn as they are, and named so.

    Args:
        path: the file.
        molecules: sanitized or not; left unchanged.
        columns: of the grid.
    """
    drawn, legends = [], []
    with rdBase.BlockLogs():
        for mol in molecules:
            name = valid_smiles(mol)
            flat = None if name is None else Chem.MolFromSmiles(name)
            if flat is None:
                flat = Chem.Mol(mol)
                flat.UpdatePropertyCache(strict=False)
                Chem.FastFindRings(flat)
            rdDepictor.Compute2DCoords(flat)
            parts = len(Chem.GetMolFrags(flat))
            legend = "invalid" if name is None else f"{parts} parts" if parts > 1 else ""
            if not _drawable(flat):
                flat, legend = Chem.MolFromSmiles("*"), f"{legend}, cannot be drawn".strip(", ")
            drawn.append(flat)
            legends.append(legend)
        _save(path, _drawn_grid(drawn, legends, columns=columns, size=_SAMPLE, prepare=False))


def _drawable(mol: Chem.Mol) -> bool:
    """RDKit gives up on some invalid molecules; one of them would cost the whole picture."""
    try:
        _drawn_grid([mol], [""], columns=1, size=_SAMPLE, prepare=False)
    except RuntimeError:
        return False
    return True


def picture_grid(path: Path, mols: Sequence[Chem.Mol], legends: Sequence[str]) -> None:
    """Draw molecules flat, five a row, with a line of text under each, to a .png file; at most 50."""
    flat = []
    for mol in mols[:50]:
        bare = Chem.RemoveHs(mol)
        bare.RemoveAllConformers()
        flat.append(bare)
    columns = min(5, len(flat))
    _save(path, _drawn_grid(flat, legends[:50], columns=columns, size=(260, 220), prepare=True))


def _drawn_grid(
    mols: Sequence[Chem.Mol],
    legends: Sequence[str],
    *,
    columns: int,
    size: tuple[int, int],
    prepare: bool,
) -> bytes:
    """A .png; prepare: kekulize and lay out, which invalid molecules do not bear, and draw at one scale."""
    wide, tall = size
    rows = -(-len(mols) // columns)
    drawer: Any = rdMolDraw2D.MolDraw2DCairo(wide * columns, tall * rows, wide, tall)
    options = drawer.drawOptions()
    options.prepareMolsBeforeDrawing = options.drawMolsSameScale = prepare
    drawer.DrawMolecules(list(mols), legends=list(legends))
    drawer.FinishDrawing()
    found: bytes = drawer.GetDrawingText()
    return found


def _save(path: Path, content: bytes) -> None:
    pending = path.with_name(f"{path.name}.next")
    pending.write_bytes(content)
    pending.replace(path)
