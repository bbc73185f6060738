"""`TcrHypernetwork`, which writes the model of an epitope from its binders, and `EpitopeModel`, which ranks by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypernet_maml.tcr.config import FITTED_KIND, KIND, ModelConfig
from hypernet_maml.tcr.distances import part_distances, tcrdist
from hypernet_maml.tcr.features import Described
from hypernet_maml.tcr.ranker import Ranker, describe
from hypernet_maml.tcr.receptors import Chain, Receptor
from priors_shared.checkpoints import find_weights, load_module, load_weights, save_weights
from priors_shared.errors import UserError, first_line

SHIPPED = Path(__file__).parent.parent / "weights"
MAX_BINDERS = 200
MIN_NON_BINDERS = 20
"""So many and the user's own non-binders are what scores are measured against."""
BINDER, OTHER, UNSURE, NEITHER = "binder", "other", "cannot say", "unlike both"


@dataclass(frozen=True)
class Scored:
    """What an epitope's model says of receptors, an entry each.

    score: higher is likelier to bind; comparable within one model only.
    p_other: how often a receptor that binds something else scores as high; small for likely binders.
    p_binder: how often a binder scores as low; small for unlikely ones.
    verdict: of conformal prediction: BINDER, OTHER, UNSURE or NEITHER.
    nearest: number of the nearest known binder. distance: to it by TCRdist.
    """

    score: np.ndarray
    p_other: np.ndarray
    p_binder: np.ndarray
    verdict: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


class TcrHypernetwork:
    """A trained hypernetwork: from the binders of an epitope to a model of it, without any training.

    Example:
        hypernetwork = TcrHypernetwork.from_pretrained("runs/tcr_cpu/0")
        model = hypernetwork.fit(binders)                # receptors of `make_receptor`
        scored = model.score(repertoire)
    """

    def __init__(self, ranker: Ranker, *, trained: Mapping[str, Any] | None = None) -> None:
        """Take a ranker as it is. trained: how it was trained."""
        self.ranker = ranker.eval()
        self.trained = dict(trained or {})

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> TcrHypernetwork:
        """A folder of `save_pretrained`, a run folder of `tcr train`, or a Hugging Face Hub id.

        Raises:
            UserError: nothing there, a checkpoint of something else, or damaged files.
        """
        source = find_weights(name, shipped=SHIPPED, command="hypernet-maml tcr train")
        record, weights = load_weights(source, kind=KIND, revision=revision)
        return cls(_ranker(record, weights, source), trained=record.get("trained") or {})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to `folder`."""
        save_weights(
            Path(folder),
            self.ranker,
            kind=KIND,
            config=_config(self.ranker),
            extra={"trained": self.trained},
        )

    def fit(
        self,
        binders: Sequence[Receptor],
        non_binders: Sequence[Receptor] = (),
        *,
        epitope: str = "",
    ) -> EpitopeModel:
        """The model of an epitope.

        Args:
            binders: 1 to 200 of its receptors; their order does not matter.
            non_binders: receptors tested not to bind it. From 20 on, scores are measured against them instead of
                against receptors that bind other epitopes.
            epitope: its name.

        Raises:
            UserError: no binder, more than 200, or a receptor with both labels.
        """
        if not 1 <= len(binders) <= MAX_BINDERS:
            raise UserError(f"binders must be 1 to {MAX_BINDERS} receptors, got {len(binders)}")
        if {r.key for r in binders} & {r.key for r in non_binders}:
            raise UserError("non_binders: a receptor is among the binders too")
        support = describe(binders, self.ranker.encoder)
        measured = self.ranker.calibration.receptors()
        if len(non_binders) >= MIN_NON_BINDERS:
            measured = describe(non_binders, self.ranker.encoder)
        others = self.ranker.score(support, measured).numpy()
        return EpitopeModel(
            self.ranker, tuple(binders), epitope=epitope, others=others, own=self._left_out(support)
        )

    def _left_out(self, support: Described) -> np.ndarray:
        """The score of each binder by a model of the others; empty for a single one."""
        n = len(support)
        if n < 2:
            return np.zeros(0, np.float32)
        rest = [np.delete(np.arange(n), i) for i in range(n)]
        scores = [self.ranker.score(support[rest[i]], support[i : i + 1]) for i in range(n)]
        return torch.cat(scores).numpy()


class EpitopeModel:
    """Ranks receptors by a network that a hypernetwork wrote."""

    def __init__(
        self,
        ranker: Ranker,
        binders: tuple[Receptor, ...],
        *,
        epitope: str,
        others: np.ndarray,
        own: np.ndarray,
    ) -> None:
        """See `TcrHypernetwork.fit`. others: scores of receptors that do not bind; own: of binders left out."""
        self.ranker, self.binders, self.epitope = ranker.eval(), binders, epitope
        self.others, self.own = others, own
        self._support = describe(binders, ranker.encoder)
        self._weights, self._background = ranker.write(self._support)
        self._conformal = [_conformal(-own), _conformal(others)]

    def score(self, receptors: Sequence[Receptor], *, confidence: float = 0.9) -> Scored:
        """Scores, in the order of the receptors; each is independent of the others.

        confidence: of the verdicts: a true binder is called OTHER or NEITHER at most so often as 1 - confidence, and so
        for the others, as far as the calibration's receptors are like those scored. With fewer than
        1 / (1 - confidence) - 1 binders none is ever ruled out: the verdict is BINDER or UNSURE.

        Raises:
            UserError: a confidence outside 0 .. 1.
        """
        if not 0 < confidence < 1:
            raise UserError(f"confidence must lie between 0 and 1, got {confidence}")
        queries = describe(receptors, self.ranker.encoder)
        if not len(queries):
            empty = np.zeros(0)
            return Scored(empty, empty, empty, empty.astype(str), empty.astype(int), empty)
        score = self.ranker.rank(self._support, self._weights, self._background, queries).numpy()
        p_binder, p_other = (
            _p_values(self._conformal[0], -score),
            _p_values(self._conformal[1], score),
        )
        level = 1 - confidence
        binder, other = p_binder > level, p_other > level
        verdict = np.select(
            [binder & other, binder, other], [UNSURE, BINDER, OTHER], default=NEITHER
        )
        distances = tcrdist(part_distances(queries.encoded, self._support.encoded))
        nearest = distances.argmin(1)
        return Scored(score, p_other, p_binder, verdict, nearest, distances.min(1))

    @classmethod
    def load(cls, folder: str | Path) -> EpitopeModel:
        """The model that `save` wrote.

        Raises:
            UserError: nothing there, something else, or damaged files.
        """
        record, weights = load_weights(Path(folder), kind=FITTED_KIND)
        scores = {name: weights.pop(name, torch.zeros(0)).numpy() for name in ("others", "own")}
        try:
            binders = tuple(
                Receptor(*(Chain(**chain) if chain else None for chain in pair))
                for pair in record["binders"]
            )
            epitope = str(record["epitope"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder}: its config.json makes no model ({first_line(error)})"
            ) from error
        prefix = "ranker."
        state = {name.removeprefix(prefix): value for name, value in weights.items()}
        return cls(_ranker(record, state, folder), binders, epitope=epitope, **scores)

    def save(self, folder: str | Path) -> None:
        """Write config.json, which holds the binders, and model.safetensors to `folder`."""
        module = torch.nn.Module()
        module.ranker = self.ranker
        module.register_buffer("others", torch.from_numpy(self.others))
        module.register_buffer("own", torch.from_numpy(self.own))
        chains = [[r.alpha and asdict(r.alpha), r.beta and asdict(r.beta)] for r in self.binders]
        save_weights(
            Path(folder),
            module,
            kind=FITTED_KIND,
            config=_config(self.ranker),
            extra={"binders": chains, "epitope": self.epitope},
        )


def _config(ranker: Ranker) -> dict[str, Any]:
    return {
        "model": asdict(ranker.net.config),
        "encoder": ranker.encoder,
        "background": len(ranker.background),
        "calibration": len(ranker.calibration),
    }


def _ranker(
    record: Mapping[str, Any], weights: Mapping[str, torch.Tensor], source: str | Path
) -> Ranker:
    def make() -> Ranker:
        config = dict(record["config"])
        return Ranker(ModelConfig(**config.pop("model")), **config)

    return load_module(source, make, weights)


def _conformal(strangeness: np.ndarray) -> Any:
    try:
        from crepes import ConformalClassifier
    except ImportError as error:
        raise UserError("verdicts need crepes: pip install 'hypernet-maml[tcr]'") from error
    classifier = ConformalClassifier()
    classifier.fit(strangeness.astype(np.float64))
    return classifier


def _p_values(classifier: Any, strangeness: np.ndarray) -> np.ndarray:
    """How often what was calibrated on is at least as strange."""
    values = strangeness.astype(np.float64)[:, None]
    return np.asarray(classifier.predict_p(values, smoothing=False)).ravel()
