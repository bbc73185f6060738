"""Blocks, head, splits, picks: no leak, order kept, ids carried, bad rows stay rows."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from molfeat_diffusion.cli import main
from molfeat_diffusion.config import SHIPPED_SMILES
from molfeat_diffusion.data.splits import scaffold_of, scaffold_split
from molfeat_diffusion.data.tables import read_rows
from molfeat_diffusion.featurizers import smiles as language
from molfeat_diffusion.featurizers.blocks import FeatureBlocks
from molfeat_diffusion.featurizers.descriptors import DescriptorFeaturizer, fingerprint
from molfeat_diffusion.prediction import predictor as predict
from molfeat_diffusion.prediction.heads import BlockStandardizer, MLPClassifier, MLPRegressor, head
from molfeat_diffusion.prediction.library import screen_file
from molfeat_diffusion.prediction.predictor import Predictor, calibrated, out_of_fold, platt
from molfeat_diffusion.prediction.screening import diversity, pick, rank
from molfeat_diffusion.pretrained import SHIPPED
from priors_shared.errors import UserError

RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccsc1", "C1CCNCC1", "c1ccoc1", "C1CCOC1")
TAILS = ("C", "CC", "OC", "NC", "ClC", "OC(=O)", "FC", "OCC")
MOLECULES = [f"{tail}{ring}" for ring in RINGS for tail in TAILS]
LABELS = np.array([float("O" in tail or "N" in tail) for ring in RINGS for tail in TAILS])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "labelled.csv"
    rows = [f"m{i},{s},{y:.0f}" for i, (s, y) in enumerate(zip(MOLECULES, LABELS, strict=True))]
    path.write_text("\n".join(["name,smiles,active", *rows, "bad,xx,1", "blank,CCO,"]) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    out = tmp_path_factory.mktemp("predictor") / "model"
    options = ["--features", "ecfp4+rdkit2d", "--id-column", "name", "-o", str(out)]
    main(["fit", str(table), "--target", "active", *options])
    return out


# --- standardisation and head ---


def test_blocks_get_the_same_total_variance() -> None:
    rng = np.random.default_rng(0)
    X = np.hstack([5 + 100 * rng.normal(size=(200, 3)), rng.normal(size=(200, 40)) / 7])
    X[:, 10] = 2.5  # constant
    Z = BlockStandardizer([3, 40]).fit_transform(X)
    np.testing.assert_allclose(Z.mean(0), 0, atol=1e-5)
    total = [Z[:, :3].var(0).sum(), Z[:, 3:].var(0).sum()]
    assert total[0] == pytest.approx(total[1], rel=1e-4)
    assert not Z[:, 10].any()
    with pytest.raises(UserError, match="43 in all"):
        BlockStandardizer([3, 41]).fit(X)


def test_standardisation_and_head_learn_from_the_training_fold_alone() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 8)), rng.integers(0, 2, 60).astype(float)
    groups = [str(i // 4) for i in range(60)]
    before = out_of_fold(head("classification", [8], epochs=3), X, y, groups)
    # A change of one held-out row may change its own score, and those of folds that train on it, but the
    # scores of other rows of its own fold (its model has seen neither).
    moved, flipped = X.copy(), y.copy()
    moved[0] += 1000
    flipped[0] = 1 - y[0]
    after = out_of_fold(head("classification", [8], epochs=3), moved, flipped, groups)
    from sklearn.model_selection import GroupKFold

    fold = next(test for _, test in GroupKFold(5).split(X, y, groups) if 0 in test)
    others = [i for i in fold if i != 0]
    np.testing.assert_array_equal(before[others], after[others])
    outside = np.setdiff1d(np.arange(60), fold)
    assert not np.array_equal(before[outside], after[outside])


def test_rows_with_nan_are_not_learned_from_and_get_nan() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)), np.arange(40) % 2
    broken = X.copy()
    broken[[3, 7], 1] = np.nan
    keep = np.setdiff1d(np.arange(40), [3, 7])
    with_nan = head("classification", [5], epochs=2).fit(broken, y)
    without = head("classification", [5], epochs=2).fit(X[keep], y[keep])
    scores = with_nan.decision_function(broken)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 7]
    learned, expected = (h["mlp"].network_.state_dict() for h in (with_nan, without))
    assert all(torch.equal(learned[name], value) for name, value in expected.items())
    # Not to the bit: a matrix product of other rows may add in another order.
    np.testing.assert_allclose(
        scores[keep], without.decision_function(X[keep]), rtol=1e-4, atol=1e-6
    )
    assert np.isnan(with_nan.predict_proba(broken)[3]).all()
    classes = with_nan.predict(broken)
    assert np.flatnonzero(np.isnan(classes)).tolist() == [3, 7]
    assert set(classes[~np.isnan(classes)]) <= {0, 1}
    named = head("classification", [5], epochs=2).fit(broken, np.where(y == 1, "yes", "no"))
    answers = named.predict(broken)
    assert [i for i, answer in enumerate(answers) if answer is None] == [3, 7]
    assert set(answers) <= {"yes", "no", None}
    assert named.predict(X).dtype.kind == "U"


def test_heads_memorise_and_are_estimators() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 10))
    labels = np.array(["no", "yes"])[rng.integers(0, 2, 20)]
    classifier = clone(MLPClassifier(epochs=150, dropout=0.0)).fit(X, labels)
    assert classifier.score(X, labels) == 1.0
    numbers = 50 + 10 * rng.normal(size=20)
    regressor = make_pipeline(BlockStandardizer(), MLPRegressor(epochs=300, dropout=0.0))
    assert regressor.fit(X, numbers).score(X, numbers) > 0.95
    again = MLPClassifier(epochs=150, dropout=0.0).fit(X, labels)
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    with pytest.raises(UserError, match="3 classes"):
        MLPClassifier().fit(X, np.arange(20) % 3)


def test_platt_gives_probabilities_that_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    positive = rng.random(20_000) < 1 / (
        1 + np.exp(-(0.5 * logits - 1))
    )  # overconfident and shifted
    slope, offset = platt(logits, positive)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(-1, abs=0.05)
    # Twenty rows that are separable say no more than 21/22.
    slope, offset = platt(np.repeat([-5.0, 5.0], 20), np.repeat([False, True], 20))
    assert 1 / (1 + np.exp(-(5 * slope + offset))) == pytest.approx(21 / 22, abs=0.01)


def test_a_scaffolds_labels_do_not_calibrate_its_own_scores() -> None:
    rng = np.random.default_rng(0)
    groups = [str(i // 8) for i in range(80)]
    logits = rng.normal(size=80)
    positive = logits + rng.normal(size=80) > 0
    before = calibrated(logits, positive, groups)
    changed = positive.copy()
    changed[16:24] = ~changed[16:24]
    after = calibrated(logits, changed, groups)
    np.testing.assert_array_equal(after[16:24], before[16:24])
    assert not np.allclose(after, before)
    # Noise that was fitted to would look better than guessing the share; measured so, it does not.
    noise = rng.random(80) < 0.5
    share = noise.mean() * (1 - noise.mean())
    assert ((calibrated(logits, noise, groups) - noise) ** 2).mean() > share


def test_blocks_are_a_transformer_with_names() -> None:
    blocks = clone(FeatureBlocks("usrcat+rdkit2d")).set_output(transform="pandas")
    frame = blocks.fit_transform(["CCO", "c1ccccc1"])
    assert list(frame.columns) == blocks.get_feature_names_out().tolist()
    assert frame.columns[0] == "usrcat_0"
    assert blocks.widths == [60, frame.shape[1] - 60]
    with pytest.raises(UserError, match="choose of midi"):
        FeatureBlocks("nothing").fit()


def test_a_row_that_fails_in_one_block_is_nan_in_all() -> None:
    X, report = FeatureBlocks("usrcat+ecfp4").transform(
        ["CCO", "O=O", "xx"], ids=["a", "b", "c"], return_failures=True
    )
    # Two atoms have an ECFP4, but no USRCAT.
    assert np.isnan(X).all(1).tolist() == [False, True, True]
    assert [(f.index, f.id, f.stage) for f in report] == [(1, "b", "size"), (2, "c", "parse")]


def test_usrcat_does_not_depend_on_writing() -> None:
    X = DescriptorFeaturizer("usrcat").transform(["CCOc1ccccc1", "c1ccccc1OCC"])
    np.testing.assert_array_equal(X[0], X[1])


# --- splits ---


def test_scaffold_splits_share_no_scaffold_and_are_nested() -> None:
    scaffolds = [scaffold_of(s) for s in MOLECULES]
    assert len(set(scaffolds)) == len(RINGS)
    small, large = (
        scaffold_split(scaffolds, train=n, test_share=0.3, seed=4, labels=LABELS.astype(int))
        for n in (10, 30)
    )
    np.testing.assert_array_equal(small.test, large.test)  # paired over n
    np.testing.assert_array_equal(small.train, large.train[:10])
    held_out = {scaffolds[i] for i in large.test}
    assert not held_out & {scaffolds[i] for i in large.train}
    other = scaffold_split(scaffolds, train=10, test_share=0.3, seed=5)
    assert not np.array_equal(other.test, small.test)
    with pytest.raises(UserError, match="were asked for"):
        scaffold_split(scaffolds, train=56, test_share=0.3, seed=0)


def test_scaffolds_ignore_stereo_and_substituents() -> None:
    assert scaffold_of("Cc1ccccc1") == scaffold_of("OCc1ccccc1") == "c1ccccc1"
    assert scaffold_of("C[C@H](N)C") == scaffold_of("C[C@@H](N)C") != ""
    assert scaffold_of("nonsense") == ""


# --- picks ---


def test_picks_are_ranked_and_never_without_score() -> None:
    scores = np.array([0.1, np.nan, 0.9, 0.5, 0.9])
    assert rank(scores).tolist() == [2, 4, 3, 0]
    assert pick(scores, [None] * 5, 2, diverse=False) == [2, 4]


def test_diverse_picks_begin_with_the_best_and_are_farther_apart() -> None:
    mols = [Chem.MolFromSmiles(s) for s in MOLECULES]
    vectors = [fingerprint(m) for m in mols]
    scores = -np.arange(len(mols), dtype=float)
    best = pick(scores, vectors, 5, diverse=False)
    diverse = pick(scores, vectors, 5, diverse=True)
    assert best == [0, 1, 2, 3, 4]
    assert diverse[0] == 0
    assert len(set(diverse)) == 5
    of = [diversity([mols[i] for i in chosen]) for chosen in (best, diverse)]
    assert of[1]["mean_tanimoto_distance"] > of[0]["mean_tanimoto_distance"]
    assert of[1]["scaffolds"] > of[0]["scaffolds"]


def test_diversity_by_hand() -> None:
    mols = [Chem.MolFromSmiles(s) for s in ("CCO", "CCO", "c1ccccc1")]
    found = diversity(mols, np.array([[0.0, 0], [0, 0], [3, 4]]))
    assert found["scaffolds"] == 2
    # Distances 0, 1, 1: ethanol and benzene share no bit.
    assert found["mean_tanimoto_distance"] == pytest.approx(2 / 3)
    assert found["mean_feature_distance"] == pytest.approx(2 / 3 * 5 / 2**0.5)


# --- commands ---


def test_fit_measures_and_lists_what_it_left_out(fitted: Path) -> None:
    record = json.loads((fitted / "config.json").read_text())
    assert record["fitted"]["rows"] == len(MOLECULES)
    assert record["fitted"]["metrics"]["auroc"] > 0.8
    rows = list(csv.DictReader((fitted / "failures.csv").open()))
    assert [(r["id"], r["stage"]) for r in rows] == [("bad", "parse"), ("blank", "target")]


@pytest.mark.parametrize("suffix", [".csv", ".smi", ".parquet"])
def test_predict_keeps_order_and_ids_and_failed_rows(
    fitted: Path, tmp_path: Path, suffix: str
) -> None:
    import pandas as pd

    smiles = [*MOLECULES[:4], "xx", "CCO", ""]
    ids = list("gfedcba")
    source = tmp_path / f"library{suffix}"
    frame = pd.DataFrame({"smiles": smiles, "name": ids})
    if suffix == ".csv":
        frame.to_csv(source, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(source)
    else:
        smiles[-1] = "yy"  # a .smi line without SMILES has no id
        source.write_text("".join(f"{s} {i}\n" for s, i in zip(smiles, ids, strict=True)))
    options = [] if suffix == ".smi" else ["--id-column", "name"]
    out = tmp_path / "scores.csv"
    main(["predict", str(fitted), str(source), "-o", str(out), *options])
    found = pd.read_csv(out)
    assert found["id"].tolist() == ids
    assert found["row"].tolist() == list(range(7))
    assert found["score"].isna().tolist() == [False] * 4 + [True, False, True]
    listed = pd.read_csv(f"{out}.failures.csv")
    assert listed["id"].tolist() == ["c", "a"]
    predictor = Predictor.load(fitted)
    expected = predictor.scores(predictor.blocks.transform(MOLECULES[:4]))
    np.testing.assert_allclose(found["score"][:4], expected, rtol=1e-4)


def test_a_saved_predictor_scores_as_the_fitted_one(tmp_path: Path) -> None:
    blocks = FeatureBlocks("rdkit2d")
    targets = np.array([len(s) for s in MOLECULES], dtype=float)
    predictor, _ = Predictor.fit(blocks, MOLECULES, targets, task="regression", epochs=5)
    predictor.save(tmp_path / "p")
    X = blocks.transform(MOLECULES)
    np.testing.assert_array_equal(Predictor.load(tmp_path / "p").scores(X), predictor.scores(X))


def test_a_predictor_refuses_features_of_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = np.array([len(s) for s in MOLECULES], dtype=float)
    blocks = FeatureBlocks("smiles")
    predictor, _ = Predictor.fit(blocks, MOLECULES, targets, task="regression", epochs=2)
    predictor.save(tmp_path / "p")
    Predictor.load(tmp_path / "p")
    load = language.load_encoder

    def changed(name: str) -> object:
        encoder, tokenizer = load(name)
        with torch.no_grad():
            next(encoder.parameters()).add_(1e-3)
        return encoder, tokenizer

    monkeypatch.setattr(language, "load_encoder", changed)
    with pytest.raises(UserError, match="fitted on features of other weights"):
        Predictor.load(tmp_path / "p")


def test_a_predictor_stores_no_path_and_loads_no_model_that_its_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(SHIPPED / SHIPPED_SMILES, own)
    blocks = FeatureBlocks("smiles", language=str(own), cache=str(tmp_path / "cache.sqlite"))
    targets = np.array([len(s) for s in MOLECULES], dtype=float)
    predictor, _ = Predictor.fit(blocks, MOLECULES, targets, task="regression", epochs=2)
    predictor.save(tmp_path / "p")
    assert str(tmp_path) not in (tmp_path / "p" / "config.json").read_text()
    with pytest.raises(UserError, match=r"language: .*not shipped"):
        Predictor.load(tmp_path / "p")
    assert Predictor.load(tmp_path / "p", language=str(own)).blocks.cache is None

    # A record that names a model all the same, as an older or a hostile one does.
    record = {"features": {**blocks.get_params(), "language": "someone/encoder"}}
    loaded = predict.load_weights

    def hostile(folder: Path, **options: object) -> object:
        found, weights = loaded(folder, **options)
        return {**found, "config": {**found["config"], **record}}, weights

    monkeypatch.setattr(predict, "load_weights", hostile)
    with pytest.raises(UserError, match=r"language: .*not shipped"):
        Predictor.load(tmp_path / "p")


def test_screen_picks_draws_and_reports(fitted: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "picks.csv"
    options = ["--top", "6", "--diverse", "--id-column", "name", "-o", str(out)]
    main(["screen", str(fitted), str(table), *options])
    picks = list(csv.DictReader(out.open()))
    assert len(picks) == 6
    assert picks[0]["rank"] == "1"
    for row in picks:
        if row["id"] != "blank":
            assert row["id"] == f"m{row['row']}"
            smiles = Chem.CanonSmiles(MOLECULES[int(row["row"])])
            assert row["smiles"] == smiles
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / "picks.csv.json").read_text())
    assert report["failed"] == 1
    assert report["picks"]["scaffolds"] >= report["best"]["scaffolds"]


@pytest.mark.parametrize("diverse", [False, True])
def test_screening_a_stream_picks_as_from_the_whole(
    fitted: Path, table: Path, tmp_path: Path, diverse: bool
) -> None:
    """Of the rows of a chunk, only those that may still be picked are kept."""
    predictor = Predictor.load(fitted)
    X = predictor.blocks.transform([row.molecule for row in read_rows(table)])
    scores = predictor.scores(X)
    mols = [Chem.MolFromSmiles(row.molecule) for row in read_rows(table)]
    vectors = [
        fingerprint(m) if np.isfinite(s) else None for m, s in zip(mols, scores, strict=True)
    ]
    wanted = pick(scores, vectors, 3, diverse=diverse)
    assert len(scores) > 30  # not all are candidates
    out = tmp_path / "picks.csv"
    screen_file(predictor, table, out, top=3, diverse=diverse, chunk=4, quiet=True)
    found = list(csv.DictReader(out.open()))
    assert [int(row["row"]) for row in found] == wanted
    ranks = {int(row): number for number, row in enumerate(rank(scores), start=1)}
    assert [int(row["rank"]) for row in found] == [ranks[row] for row in wanted]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "{t}", "--target", "activ", "-o", "{d}/x"], "did you mean active"),
        (["fit", "{t}", "--target", "name", "-o", "{d}/x"], "row 0: name is 'm0'"),
        (["fit", "{t}", "--target", "active", "--features", "ecfp", "-o", "{d}/x"], "choose of"),
        (["predict", "{d}/none", "{t}", "-o", "{d}/s.csv"], "no such checkpoint"),
        (["predict", "{m}", "{t}", "-o", "{d}/s.txt"], "must end in .csv or .parquet"),
        (["screen", "{m}", "{t}", "-o", "{d}/s.csv", "--top", "0"], "--top must be at least 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    table: Path,
    fitted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [a.format(t=table, d=tmp_path, m=fitted) for a in arguments]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not any("Traceback" in line for line in lines)
