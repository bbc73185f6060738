"""The package's part of `reproduce`: a table featurized, a predictor, picks, samples, stored results."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from molfeat_diffusion.config import SHIPPED_MIDI
from priors_shared.reports import (
    Code,
    Figure,
    Section,
    Table,
    Verdict,
    comparison_table,
    read_result,
)

LABELLED, LIBRARY, PICKS, SAMPLES = 150, 150, 15, 20
SEED = 7


def run(report_dir: Path, quick: bool, progress: type[Any], results: Path) -> Section:
    """Fit, screen and sample with the shipped weights, and return the page.

    Needs the datasets (PRIORS_DATA) for the table; says so where they are missing.
    """
    if not quick:
        from molfeat_diffusion.experiments import EXPERIMENTS

        for experiment in EXPERIMENTS.values():
            experiment(preset="cpu", out=report_dir, quick=False, runs=report_dir / "runs")
    parts: list[Any] = [
        "A diffusion model of molecules in 3D, read as a featurizer, beside a language model of SMILES; a "
        "small network on top learns from a few hundred labels, and picks molecules from a library.",
    ]
    parts += [_screen_section(report_dir), _samples_section(report_dir)]
    stored = (results if quick else report_dir) / "table-5.1-cpu.json"
    if stored.is_file():
        parts.append(_stored_section(stored))
    return Section("molfeat-diffusion: features that know a molecule's shape", parts)


def _screen_section(report_dir: Path) -> Section:
    from priors_shared.datasets.base import resolve_data_root

    title = "BACE-1 inhibitors: fit and screen"
    root = resolve_data_root(None)
    path = None if root is None else root / "molecules" / "bace.csv.gz"
    if path is None or not path.is_file():
        return Section(title, [Verdict(None, "Not run: PRIORS_DATA names no folder with BACE.")])

    from molfeat_diffusion.featurizers.blocks import FeatureBlocks
    from molfeat_diffusion.prediction.library import fit_file, screen_file

    out = report_dir / "screen"
    shutil.rmtree(out, ignore_errors=True)  # what an earlier report left
    out.mkdir(parents=True)
    labelled, library = _tables(path, out)
    features = "midi+smiles"
    blocks = FeatureBlocks(features, seed=SEED)
    predictor = fit_file(
        blocks, labelled, "Class", out / "model", task="classification", id_column="CID"
    )
    options: dict[str, Any] = {"top": PICKS, "diverse": True, "id_column": "CID", "quiet": True}
    found = screen_file(predictor, library, out / "picks.csv", **options)
    hits = _hits(library, out / "picks.csv")
    metrics = predictor.record["metrics"]
    names = {"picks": "diverse picks", "best": "the best"}
    rows: list[list[Any]] = [
        [names[n], found["mean_score"][n], f["mean_tanimoto_distance"], int(f["scaffolds"])]
        for n in names
        for f in [found[n]]
    ]
    said = (
        f"Features {features}; {predictor.record['rows']} labelled molecules; on scaffolds held out, "
        f"AUROC {metrics['auroc']:.3f}, AUPRC {metrics['auprc']:.3f}. Of a library of {found['rows']} "
        f"other molecules ({found['failed']} failed), {PICKS} were picked: {hits} of them are active."
    )
    columns = ["", "mean score", "mean Tanimoto distance", "scaffolds"]
    accounted = found["rows"] == LIBRARY
    return Section(
        title,
        [
            said,
            Table(columns, rows, "Diversity of the picks.", digits=3),
            Verdict(accounted, "Every row of the library has a score or is listed as failed."),
            Figure.from_file(out / "picks.png", "The picks: CID and calibrated score."),
        ],
    )


def _tables(path: Path, out: Path) -> tuple[Path, Path]:
    """BACE's rows, shuffled by the seed: those to learn from and those to pick from."""
    import random

    from molfeat_diffusion.data.sources import open_text

    with open_text(path) as file:
        rows = list(csv.DictReader(file))
    random.Random(SEED).shuffle(rows)
    made = {"labelled": rows[:LABELLED], "library": rows[LABELLED : LABELLED + LIBRARY]}
    for name, some in made.items():
        with open(out / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["CID", "smiles", "Class"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(some)
    return out / "labelled.csv", out / "library.csv"


def _hits(library: Path, picks: Path) -> int:
    with open(library, encoding="utf-8") as file:
        active = [row["Class"] == "1" for row in csv.DictReader(file)]
    with open(picks, encoding="utf-8") as file:
        return sum(active[int(row["row"])] for row in csv.DictReader(file))


def _samples_section(report_dir: Path) -> Section:
    from molfeat_diffusion.evaluation import sampling_metrics
    from molfeat_diffusion.pretrained import load_model
    from molfeat_diffusion.sampling import sample_molecules, write_sdf

    model, _ = load_model(SHIPPED_MIDI)
    molecules = sample_molecules(model, SAMPLES, steps=50, seed=SEED, quiet=True)
    write_sdf(report_dir / "samples.sdf", molecules)
    found = sampling_metrics(molecules, hydrogens=model.vocabulary.hydrogens)
    rows: list[list[Any]] = [[name, 100 * value] for name, value in found.items()]
    caption = f"{SAMPLES} molecules in 50 strided steps; in percent."
    return Section(
        "Molecules drawn from the diffusion model", [Table(["metric", ""], rows, caption)]
    )


def _stored_section(path: Path) -> Section:
    result = read_result(path)
    rows = [
        {"model": row["model"]} | {k: v for k, v in row.items() if k.startswith("AUROC")}
        for row in result["rows"]
    ]
    parts: list[Any] = [
        f"{result['data']}. {result['date']}, commit {str(result['commit'])[:10]}. The thesis: ChemBERTa "
        "0.850, with MiDi's features 0.877, on data that is not public.",
        comparison_table(rows, {}, caption="AUROC over paired splits.", digits=3),
    ]
    gains = [c for c in result["comparisons"] if c["row"] == "SMILES model + MiDi"]
    for c in gains:
        if c["column"].startswith("AUROC"):
            d = c["difference"]
            holds = True if d["low"] > 0 else False if d["high"] < 0 else None
            text = f"{c['column']}: MiDi adds {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
            parts.append(Verdict(holds, text))
    if result["rows_left_out"]:
        parts.append(f"Rows left out: {', '.join(result['rows_left_out'])}.")
    if path.with_suffix(".png").is_file():
        parts.append(Figure.from_file(path.with_suffix(".png")))
    return Section("Stored result: Table 5.1", [*parts, Code(result["command"])], folded=True)
