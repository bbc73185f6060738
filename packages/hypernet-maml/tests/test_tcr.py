"""Receptors: tables, distances, what is held out, the hypernetwork, scores of files."""

import csv
import gzip
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tidytcells", reason="extra tcr")
pytest.importorskip("crepes", reason="extra tcr")

from hypernet_maml.claims import BOOK
from hypernet_maml.experiments import tcr_few_shot
from hypernet_maml.tcr.baselines import BASELINES, TCRDIST
from hypernet_maml.tcr.cli import PROGRAM
from hypernet_maml.tcr.config import ModelConfig, TrainConfig
from hypernet_maml.tcr.datasets import Binders
from hypernet_maml.tcr.distances import (
    edit_distance_within,
    edit_distances,
    part_distances,
)
from hypernet_maml.tcr.evaluation import evaluate
from hypernet_maml.tcr.external import unseen
from hypernet_maml.tcr.features import pair_features
from hypernet_maml.tcr.pretrained import BINDER, OTHER, EpitopeModel, TcrHypernetwork
from hypernet_maml.tcr.protocol import clonotypes, epitope_clusters, make_folds, make_tasks
from hypernet_maml.tcr.ranker import Ranker, describe
from hypernet_maml.tcr.receptors import BadReceptor, Receptor, encode, loops, make_receptor
from hypernet_maml.tcr.repertoire import failures_file, read_labelled, score_table
from hypernet_maml.tcr.tables import read_receptors
from hypernet_maml.tcr.training import train
from priors_shared.errors import UserError
from priors_shared.experiments import Lab, Runner
from priors_shared.reports import read_result
from priors_shared.runs import Run, read_metrics

AMINO = "ADEGHKLNPQRSTVY"
V_ALPHA = ("TRAV12-2", "TRAV21", "TRAV5", "TRAV13-1", "TRAV38-1")
V_BETA = ("TRBV2", "TRBV19", "TRBV9", "TRBV20-1", "TRBV6-1")


def receptor(rng: random.Random, **fixed: str) -> Receptor:
    def loop(end: str) -> str:
        return "CA" + "".join(rng.choice(AMINO) for _ in range(rng.randint(8, 13))) + end

    made = {
        "v_alpha": rng.choice(V_ALPHA),
        "cdr3_alpha": loop("LTF"),
        "j_alpha": "TRAJ42",
        "v_beta": rng.choice(V_BETA),
        "cdr3_beta": loop("QYF"),
        "j_beta": "TRBJ2-7",
    }
    return make_receptor(**{**made, **fixed})


def collection(seed: int = 0, epitopes: int = 12, each: int = 14) -> Binders:
    """Made receptors; binders of an epitope have one V gene, one in five is a neighbour of the one before."""
    rng = random.Random(seed)
    names = ["".join(rng.choice(AMINO) for _ in range(9)) for _ in range(epitopes)]
    receptors, labels = [], []
    for i, name in enumerate(names):
        for n in range(each):
            one = receptor(rng, v_beta=V_BETA[i % len(V_BETA)])
            if n % 5 == 4:
                beta = receptors[-1].beta
                one = Receptor(one.alpha, replace(beta, cdr3=beta.cdr3[:5] + "W" + beta.cdr3[6:]))
            receptors.append(one)
            labels.append(name)
    # Public clonotypes that bind epitopes of different folds.
    receptors[:3] = [receptors[each * 5]] * 3
    return Binders(tuple(receptors), tuple(labels), {})


def ranker(seed: int = 0, background: int = 40, calibration: int = 200) -> Ranker:
    torch.manual_seed(seed)
    made = Ranker(ModelConfig(), encoder="cdr", background=background, calibration=calibration)
    with torch.no_grad():  # a hypernetwork that does write something
        for parameter in made.net.hypernetwork.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    rng = random.Random(seed)
    made.background.fill(describe([receptor(rng) for _ in range(background)], "cdr"))
    made.calibration.fill(describe([receptor(rng) for _ in range(calibration)], "cdr"))
    return made.eval()


def some(n: int, seed: int = 1) -> list[Receptor]:
    rng = random.Random(seed)
    return [receptor(rng) for _ in range(n)]


# --- receptors and tables ---


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cdr3_beta": "ASSIRSSYEQY"}, "does not run from C to F or W"),
        ({"cdr3_beta": "CASS*RSSYEQYF"}, "stop codon"),
        ({"cdr3_beta": "CASSXRSSYEQYF"}, "no amino acids"),
        ({"cdr3_beta": "C" + "A" * 40 + "F"}, "42 residues"),
        ({"cdr3_beta": "CASSIRSSYEQYF", "v_beta": "TRBV99"}, "no human TRBV gene"),
        ({"cdr3_beta": "CASSIRSSYEQYF", "v_beta": "TRAV12-2"}, "no human TRBV gene|mouse"),
        ({"cdr3_beta": "CASSIRSSYEQYF", "v_beta": "TRBV13-2"}, "mouse"),
        ({"cdr3_beta": "CASSIRSSYEQYF", "v_beta": "TRBV1"}, "pseudogene"),
        ({"v_alpha": "TRAV12-2"}, "no CDR3"),
    ],
)
def test_what_is_no_receptor_says_why(fields, reason):
    with pytest.raises(BadReceptor, match=reason):
        make_receptor(**fields)


def test_genes_get_standard_names_and_their_loops():
    one = make_receptor(cdr3_beta="casSirssyeqyf ", v_beta="TCRBV19S1", j_beta="unknown")
    assert (one.beta.v, one.beta.j, one.beta.cdr3, one.alpha) == (
        "TRBV19",
        None,
        "CASSIRSSYEQYF",
        None,
    )
    assert loops("TRBV19") == "LNH.......DASQI....VNDEKK.ES"


WIDE = "cdr3_alpha\tv_alpha\tcdr3_beta\tv_beta\nCAVNSGNNNDMRF\tTRAV8-1\tCASSEAAAYYGYTF\tTRBV2\n"
AIRR = (
    "cell_id\tlocus\tv_call\tj_call\tjunction_aa\n"
    "a\tTRA\tTRAV8-1*01\tTRAJ43*01\tCAVNSGNNNDMRF\na\tTRB\tTRBV2*01,TRBV3-1*01\tTRBJ1-2\tCASSEAAAYYGYTF\n"
)
TENX = (
    "barcode,chain,v_gene,j_gene,cdr3,umis\nx-1,TRA,TRAV21,TRAJ43,CAVAAAAAAMRF,1\n"
    "x-1,TRA,TRAV8-1,TRAJ43,CAVNSGNNNDMRF,9\nx-1,TRB,TRBV2,TRBJ1-2,CASSEAAAYYGYTF,4\n"
)
VDJDB = (
    "complex.id\tGene\tCDR3\tV\tJ\tEpitope\n7\tTRA\tCAVNSGNNNDMRF\tTRAV8-1\tTRAJ43\tGILGFVFTL\n"
    "7\tTRB\tCASSEAAAYYGYTF\tTRBV2\tTRBJ1-2\tGILGFVFTL\n0\tTRB\tCASSEAAAYYGYTF\tTRBV2\tTRBJ1-2\tGILGFVFTL\n"
)
IEDB = (
    "Chain 1 - CDR3 Curated,Chain 1 - Curated V Gene,Chain 2 - CDR3 Curated,Chain 2 - Curated V Gene,Epitope - Name\n"
    "AVNSGNNNDMR,TRAV8-1*01,ASSEAAAYYGYT,TRBV2*01,GILGFVFTL\n"
)


@pytest.mark.parametrize(
    "text", [WIDE, AIRR, TENX, VDJDB, IEDB], ids=["wide", "airr", "10x", "vdjdb", "iedb"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_formats_are_recognised(tmp_path, text, packed):
    path = tmp_path / "table"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    first, *rest = read_receptors(path)
    assert (first.receptor.alpha.cdr3, first.receptor.alpha.v) == ("CAVNSGNNNDMRF", "TRAV8-1")
    assert (first.receptor.beta.cdr3, first.receptor.beta.v) == ("CASSEAAAYYGYTF", "TRBV2")
    if text is TENX:
        assert first.others == ((2, "another alpha chain of cell x-1"),)
    if text is VDJDB:
        assert [r.number for r in rest] == [4]
        assert rest[0].receptor.alpha is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a\tb\n1\t2\n", "no column of CDR3s"),
        (b"cdr3_beta\tCDR3_beta\nCASSF\tCASSF\n", "stands twice"),
        ("cdr3_beta\né\n".encode("latin-1"), "UTF-8"),
        ("cdr3_beta\nCASSF\n".encode("utf-16"), "UTF-16"),
        (b"\x1f\x8bxx", "cannot be read as a table"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_receptors(tmp_path / "t.tsv"))


# --- distances ---


def test_tcrdist_is_that_of_tcrdist3():
    """Values of tcrdist3 0.3 (alpha chain, genes whose loops are equally long)."""
    rows = [
        ("TRAV21", "CAGTHNDYKLSF"),
        ("TRAV21", "CAVRPSDSWGKLQF"),
        ("TRAV13-1", "CAASIGGFKTIF"),
        ("TRAV5", "CAERDPYNTDKLIF"),
    ]
    encoded = encode([make_receptor(v_alpha=v, cdr3_alpha=c) for v, c in rows])
    parts = part_distances(encoded, encoded)
    total = parts[0] + 3 * parts[1]
    assert total.tolist() == TCRDIST3
    assert np.isnan(parts[2:]).all()


TCRDIST3 = [[0, 69, 103, 125], [69, 0, 139, 122], [103, 139, 0, 126], [125, 122, 126, 0]]


def test_a_missing_chain_leaves_the_other_part_alone():
    a, b = some(2)
    half = Receptor(a.alpha, None)
    whole, part = (part_distances(encode([x]), encode([b])) for x in (a, half))
    assert whole[:2].tolist() == part[:2].tolist()
    assert np.isnan(part[2:]).all()
    features = pair_features(describe([half], "cdr"), describe([b], "cdr"))[0, 0]
    both = pair_features(describe([a], "cdr"), describe([b], "cdr"))[0, 0]
    alpha = [0, 1, 4, 6, 8, 10]
    assert torch.equal(features[alpha], both[alpha])
    assert not features[[2, 3, 5, 7, 9, 11]].any()


def test_edit_distances_by_hand():
    words = ["CASSF", "CASF", "CTSSYF", "CASSF"]
    encoded = encode([make_receptor(cdr3_beta=w + "AAF") for w in words])
    assert edit_distances(encoded, encoded, 1)[0].tolist() == [0, 1, 2, 0]
    assert edit_distance_within("CASSF", "CTSSYF", 2)
    assert not edit_distance_within("CASSF", "CTSSYF", 1)


# --- what is held out ---


@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_a_test_part_is_in_training(seed):
    binders = collection(seed)
    clusters, groups = epitope_clusters(binders.epitopes), clonotypes(binders.receptors)
    for fold in make_folds(binders, folds=4, seed=seed):
        train_clusters = {clusters[binders.epitopes[i]] for i in fold.train}
        assert train_clusters.isdisjoint(clusters[binders.epitopes[i]] for i in fold.test)
        assert not set(groups[fold.train]) & set(groups[fold.test])
        betas = [binders.receptors[i].beta.cdr3 for i in fold.train]
        for task in make_tasks(binders, fold.test, shots=3, episodes=2, seed=seed, min_binders=8):
            used = np.concatenate([task.support, task.positives, task.negatives])
            assert not set(used) & set(fold.train)
            for i in used:  # not by the function under test
                beta = binders.receptors[i].beta.cdr3
                assert not any(edit_distance_within(beta, other, 1) for other in betas)
            assert not set(groups[task.support]) & set(groups[task.positives])
            assert not set(groups[task.negatives]) & set(groups[task.positives])
            assert all(binders.epitopes[i] != task.epitope for i in task.negatives)


def test_clusters_link_epitopes_within_three_edits():
    found = epitope_clusters(["GILGFVFTL", "GILGFVKKK", "GILGKKKKK", "NLVPMVATV"])
    assert found["GILGFVFTL"] == found["GILGFVKKK"] == found["GILGKKKKK"] != found["NLVPMVATV"]


def test_clonotypes_link_beta_chains_within_one_edit():
    betas = ["CASSIRSSYEQYF", "CASSIRSAYEQYF", "CASSIRAYEQYF", "CASSIRAYEQAAYF", "CASSIRSSYEQYF"]
    groups = clonotypes([make_receptor(cdr3_beta=b) for b in betas])
    assert groups[0] == groups[1] == groups[2] == groups[4] != groups[3]


def test_receptors_known_from_training_are_left_out_of_another_collection():
    known = collection(0)
    source = Binders((known.receptors[20], some(1)[0]), ("AAAAAAAAA", known.epitopes[0]), {})
    assert unseen(source, known, np.arange(len(known))).tolist() == []
    assert unseen(source, known, np.arange(14)).tolist() == [0]


def test_epitopes_drawn_at_random_are_ranked_at_chance():
    binders = collection(3, epitopes=6, each=40)
    shuffled = np.random.default_rng(0).permutation(np.array(binders.epitopes)).tolist()
    binders = replace(binders, epitopes=tuple(shuffled))
    described, scorer = describe(binders.receptors, "cdr"), ranker()
    everything = np.arange(len(binders))
    tasks = make_tasks(binders, everything, shots=5, episodes=4, seed=0, min_binders=8)
    found = evaluate(tasks, lambda s, q: scorer.score(described[s], described[q]).numpy())
    mean = np.mean([row["auroc"] for row in found.values()])
    assert abs(mean - 0.5) < 0.06


# --- the hypernetwork ---


def test_it_begins_as_nearest_neighbours_and_writes_nothing():
    torch.manual_seed(0)
    fresh = Ranker(ModelConfig(), encoder="cdr", background=3, calibration=1)
    fresh.background.fill(describe(some(3, 9), "cdr"))
    support = describe(some(4), "cdr")
    weights, _ = fresh.write(support)
    assert not weights.any()
    scores = fresh.eval().score(support, describe([*some(1), *some(30, 5)], "cdr"))
    assert scores.argmax() == 0  # a binder itself


def test_the_order_of_the_support_does_not_matter_nor_that_of_the_queries():
    one, support, queries = ranker(), describe(some(6), "cdr"), describe(some(20, 2), "cdr")
    scores = one.score(support, queries)
    turned, shuffled = np.arange(6)[::-1].copy(), np.random.default_rng(0).permutation(20)
    assert torch.allclose(one.score(support[turned], queries), scores, atol=1e-5)
    assert torch.allclose(one.score(support, queries[shuffled]), scores[shuffled], atol=1e-5)


def test_the_support_changes_the_weights_that_are_written():
    one = ranker()
    first, second = (one.write(describe(some(5, seed), "cdr"))[0] for seed in (1, 2))
    assert not torch.allclose(first, second)


def _train(folder: Path, resume: bool = False, steps: int = 12) -> Ranker:
    binders = collection(0)
    config = TrainConfig(steps=steps, batch_size=2, negatives=20, background=20, calibration=10)
    fold = make_folds(binders, folds=4, seed=0)[0]
    described = describe(binders.receptors, "cdr")
    with Run.create(folder, asdict(config), command="", quiet=True, resume=resume) as run:
        return train(config, binders, described, fold, run)


def test_training_is_reproducible_and_lowers_the_loss(tmp_path):
    one, two = _train(tmp_path / "a", steps=60), _train(tmp_path / "b", steps=60)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    again = _train(tmp_path / "a", resume=True, steps=60)  # finished: nothing is done again
    assert torch.equal(one.net.linear.weight, again.net.linear.weight)
    losses = [float(r["loss"]) for r in read_metrics(tmp_path / "a")]
    assert losses[-1] < losses[0]


# --- models of an epitope, and files ---


def test_calibration_holds_for_receptors_that_were_not_calibrated_on():
    model = TcrHypernetwork(ranker(calibration=400)).fit(some(12))
    scored = model.score(some(1000, 77), confidence=0.8)
    false = np.mean(scored.p_other <= 0.2)
    assert abs(false - 0.2) < 0.06
    assert np.mean(np.isin(scored.verdict, [BINDER, "unlike both"])) < 0.26


def test_few_binders_are_never_ruled_out():
    scored = TcrHypernetwork(ranker()).fit(some(4)).score(some(100, 5))
    assert OTHER not in scored.verdict


def test_binders_must_be_one_to_two_hundred_and_not_both():
    hypernetwork = TcrHypernetwork(ranker())
    for binders in ([], some(201)):
        with pytest.raises(UserError, match="1 to 200"):
            hypernetwork.fit(binders)
    with pytest.raises(UserError, match="among the binders"):
        hypernetwork.fit(some(2), some(1))


def test_saved_models_score_the_same(tmp_path):
    hypernetwork = TcrHypernetwork(ranker(), trained={"x": 1})
    hypernetwork.save_pretrained(tmp_path / "h")
    model = TcrHypernetwork.from_pretrained(tmp_path / "h").fit(some(5), epitope="GILGFVFTL")
    model.save(tmp_path / "m")
    queries = some(30, 4)
    one, two = model.score(queries), EpitopeModel.load(tmp_path / "m").score(queries)
    assert one.score.tolist() == two.score.tolist()
    assert one.verdict.tolist() == two.verdict.tolist()
    assert one.nearest.tolist() == two.nearest.tolist()


def _table(path: Path, receptors: list[Receptor], bad: int = 0) -> None:
    lines = ["cdr3_alpha\tv_alpha\tj_alpha\tcdr3_beta\tv_beta\tj_beta"]
    for i, r in enumerate(receptors):
        chains = (part for c in (r.alpha, r.beta) for part in (c.cdr3, c.v, c.j))
        lines.append("\t".join(chains))
        if i < bad:
            lines.append("CAV*F\tTRAV21\t\tCASSF\tTRBV2\t")
    path.write_text("\n".join(lines) + "\n")


def test_streaming_is_in_memory_and_every_row_is_accounted_for(tmp_path):
    model = TcrHypernetwork(ranker()).fit(some(5))
    receptors = some(50, 3)
    _table(tmp_path / "r.tsv", receptors, bad=4)
    files = [tmp_path / "a.tsv", tmp_path / "b.tsv"]
    for path, size in zip(files, (7, 1000), strict=True):
        counts = score_table(model, tmp_path / "r.tsv", path, confidence=0.9, batch_size=size)
        assert (counts.rows, counts.verdicts["failed"]) == (54, 4)
    one, two = (list(csv.DictReader(p.read_text().splitlines(), delimiter="\t")) for p in files)
    assert [r["row"] for r in one] == [str(i) for i in range(2, 56)]
    scores = [float(r["score"]) for r in one if r["verdict"] != "failed"]
    assert scores == pytest.approx([float(r["score"]) for r in two if r["score"]], abs=2e-4)
    assert scores == pytest.approx(model.score(receptors).score.tolist(), abs=2e-4)
    failed = list(csv.DictReader(failures_file(files[0]).read_text().splitlines(), delimiter="\t"))
    assert [r["row"] for r in failed] == ["3", "5", "7", "9"]
    assert all("stop codon" in r["reason"] for r in failed)


def test_labelled_tables_lose_no_row_silently(tmp_path):
    lines = [
        "cdr3_beta\tv_beta\tepitope\tlabel",
        "CASSIRSSYEQYF\tTRBV19\tGILGFVFTL\t1",
        "CASSIRSSYEQYF\tTRBV19\tGILGFVFTL\t1",
        "CASSIRSAYEQYF\tTRBV19\tGILGFVFTL\t1",
        "CASSIRSAYEQYF\tTRBV19\tGILGFVFTL\t0",
        "CASSPGQGAEQYF\tTRBV2\tGILGFVFTL\t0",
        "CASSPGQGSEQYF\tTRBV2\tNLVPMVATV\t1",
        "CASSPGQGTEQYF\tTRBV2\tGILGFVFTL\tmaybe",
        "CASSPGQGTEQYF\tTRBV2",
    ]
    path = tmp_path / "t.tsv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"has 2 \(.*choose one"):
        read_labelled(path)
    found = read_labelled(path, "GILGFVFTL")
    assert (len(found.binders), len(found.non_binders)) == (1, 1)
    assert [row for row, _ in found.failures] == [3, 4, 5, 7, 8, 9]
    with pytest.raises(UserError, match="has no AAAA"):
        read_labelled(path, "AAAA")


def test_the_command_line_fits_and_scores(tmp_path, capsys):
    TcrHypernetwork(ranker()).save_pretrained(tmp_path / "h")
    _table(tmp_path / "known.tsv", some(6))
    _table(tmp_path / "all.tsv", some(20, 8), bad=1)
    fit = [
        "fit",
        str(tmp_path / "known.tsv"),
        "-o",
        str(tmp_path / "m"),
        "--weights",
        str(tmp_path / "h"),
    ]
    PROGRAM.run(fit)
    PROGRAM.run(
        ["score", str(tmp_path / "m"), str(tmp_path / "all.tsv"), "-o", str(tmp_path / "s.tsv")]
    )
    said = capsys.readouterr().out
    assert "binders   6" in said
    assert "rows      21" in said
    with pytest.raises(SystemExit) as stopped:
        PROGRAM.run([*fit[:1], str(tmp_path / "nothing.tsv"), *fit[2:]])
    assert stopped.value.code == 2
    assert "nothing.tsv: cannot be read" in capsys.readouterr().err


def test_an_output_that_is_the_input_is_refused(tmp_path):
    model = TcrHypernetwork(ranker()).fit(some(2))
    _table(tmp_path / "r.tsv", some(3))
    with pytest.raises(UserError, match="give another file"):
        score_table(model, tmp_path / "r.tsv", tmp_path / "r.tsv", confidence=0.9)


# --- the experiment ---


def data_root(folder: Path, binders: Binders) -> Path:
    """A folder of datasets with these receptors as IEDB's."""
    path = folder / "tcr" / "iedb_paired_human_mhci.tsv.gz"
    path.parent.mkdir(parents=True)
    lines = ["Peptide\tCDR3a_extended\tVa\tJa\tCDR3b_extended\tVb\tJb\tjust_10X"]
    for one, epitope in zip(binders.receptors, binders.epitopes, strict=True):
        chains = [part for c in (one.alpha, one.beta) for part in (c.cdr3, c.v, c.j)]
        lines.append("\t".join([epitope, *chains, "False"]))
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return folder


def few_shot(root: Path | None = None) -> tcr_few_shot.TcrFewShot:
    return replace(
        tcr_few_shot.experiment(),
        config=TrainConfig(folds=2, steps=2, batch_size=2, positives=4, negatives=8),
        seeds=(0, 1),
        shots=(2,),
        min_binders=8,
        data_root=root,
    )


def test_the_experiments_trainings_are_planned_without_data(tmp_path: Path) -> None:
    names = list(Runner(lambda preset: few_shot()).trainings(preset="cpu", runs=tmp_path))
    assert len(names) == len(set(names)) == 2 + 2 * 2 * 3
    assert names[0] == "tcr/hypernetwork-epitopes-permuted-0-0"
    few_shot().run(Lab(out=tmp_path / "out", runs=tmp_path, quick=True))
    assert not (tmp_path / "out").exists()


def test_the_experiment_ranks_all_arms_and_baselines(tmp_path: Path) -> None:
    pytest.importorskip("sceptr", reason="extra sceptr")
    lab = Lab(out=tmp_path / "out", runs=tmp_path / "runs")
    few_shot(data_root(tmp_path, collection())).run(lab)
    result = read_result(tmp_path / "out" / "tcr-few-shot-cpu.json")
    arms = {row["arm"] for row in result["rows"]}
    assert arms == {*tcr_few_shot.ARMS, tcr_few_shot.CONTROL, *BASELINES, *TCRDIST}
    for claim in BOOK.claims:
        if claim.experiment == "tcr-few-shot":
            stored = {arm: {"5": by["2"]} for arm, by in result["epitopes"].items()}
            assert claim.judged({**result, "epitopes": stored}).pairs == 12
    assert (tmp_path / "out" / "tcr-few-shot-cpu.png").is_file()
    assert len(tcr_few_shot.section(tmp_path / "out" / "tcr-few-shot-cpu.json").parts) == 3
