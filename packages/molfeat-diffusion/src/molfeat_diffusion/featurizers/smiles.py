"""Features of SMILES by a masked-language model: ChemBERTa, or our own small one.

Attention-masked mean of the last layer over all tokens, of the canonical SMILES. (`pooler_output` of a
masked-language model is untrained.) Any encoder that transformers' AutoModel loads will do.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from molfeat_diffusion.config import SHIPPED_SMILES
from molfeat_diffusion.featurizers.cache import digest_of
from molfeat_diffusion.featurizers.rows import (
    Failure,
    molecule_sources,
    parse_rows,
    refuse_failures,
    row_names,
)
from molfeat_diffusion.pretrained import SHIPPED
from priors_shared.checkpoints import find_weights
from priors_shared.devices import choose_device
from priors_shared.errors import UserError

# Atoms in brackets, elements of two letters, ring bonds of two digits; else each character.
TOKEN = r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|."
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


class SmilesFeaturizer(TransformerMixin, BaseEstimator):
    """A scikit-learn transformer from molecules to the features of a language model of SMILES.

    Example:
        X = SmilesFeaturizer().transform(["CCO", "c1ccccc1"])  # (2, d) float32

    Args:
        model: shipped weights (smiles-mlm-cpu), run folder, folder of a transformers model, or Hub id, such
            as DeepChem/ChemBERTa-77M-MLM.
        max_length: tokens, special ones included, if the model takes as many; what is longer is cut, and noted.
        errors: what a molecule without features means: "raise" an error, a row of "nan", or "skip" the row.
        fragment: of a salt: its "largest" fragment, which is noted, or "all" of it.
        batch: SMILES at a time.
        device: where the model runs.
    """

    def __init__(
        self,
        model: str | Path = SHIPPED_SMILES,
        *,
        max_length: int = 128,
        errors: Literal["raise", "nan", "skip"] = "raise",
        fragment: Literal["largest", "all"] = "largest",
        batch: int = 64,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.max_length = max_length
        self.errors = errors
        self.fragment = fragment
        self.batch = batch
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> SmilesFeaturizer:
        """Nothing is learned: load the model."""
        self._loaded()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """It always is."""
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded model behind: it is loaded again where it is needed."""
        gone = ("_encoder", "_tokenizer", "_longest")
        return {k: v for k, v in super().__getstate__().items() if k not in gone}

    @property
    def n_features(self) -> int:
        """d."""
        return int(self._loaded().config.hidden_size)

    @property
    def checkpoint_digest(self) -> str:
        """What tells the model's weights from others."""
        return digest_of(self._loaded())

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """smiles_0, smiles_1, ..."""
        return np.array([f"smiles_{i}" for i in range(self.n_features)], dtype=object)

    def transform(
        self,
        X: Any,
        *,
        ids: Sequence[Any] | None = None,
        first_row: int = 0,
        return_failures: bool = False,
    ) -> Any:
        """Features, row i for molecule i.

        Args:
            X: SMILES and RDKit molecules in a sequence, array, Series or DataFrame (its column smiles, or its
                only one), or the path of an .sdf file.
            ids: of the rows, for the failure table; None: their positions.
            first_row: position of the first row in a larger input, for the failure table.
            return_failures: also return the list of `Failure`: rows that failed, and notes.

        Returns:
            (N, d) float32; with errors="skip", rows that failed are missing.

        Raises:
            UserError: with errors="raise", for the first molecule that fails; wrong options or input.
        """
        encoder = self._loaded()
        sources = list(molecule_sources(X))
        names = row_names(ids, len(sources))
        report: list[Failure] = []
        parsed = parse_rows(sources, names, report, None, self.fragment)
        report = [failure._replace(index=failure.index + first_row) for failure in report]
        refuse_failures(report, self.errors)
        result = np.full((len(sources), self.n_features), np.nan, dtype=np.float32)
        encoded = {row: self._tokenizer(p.content)["input_ids"] for row, p in parsed.items()}
        for row, tokens in encoded.items():
            if len(tokens) > self._longest:
                reason = f"{len(tokens)} tokens, cut to {self._longest}"
                report.append(Failure(row + first_row, names[row], "length", reason, failed=False))
                encoded[row] = [*tokens[: self._longest - 1], tokens[-1]]
        order = sorted(encoded, key=lambda row: len(encoded[row]))
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            result[rows] = self._embedded(encoder, [encoded[row] for row in rows])
        if self.errors == "skip":
            result = result[sorted(parsed)]
        report.sort(key=lambda failure: (failure.index, failure.failed))
        return (result, report) if return_failures else result

    def _embedded(self, encoder: Any, tokens: list[list[int]]) -> np.ndarray:
        ids, mask = padded(tokens, self._tokenizer.pad_token_id)
        with torch.inference_mode():
            out = encoder(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
            weights = mask.to(self.device).unsqueeze(-1)
            mean = (out.last_hidden_state * weights).sum(1) / weights.sum(1)
        return mean.float().cpu().numpy()

    def _loaded(self) -> Any:
        if self.errors not in ("raise", "nan", "skip"):
            raise UserError(f"errors {self.errors!r}: raise, nan or skip")
        encoder = getattr(self, "_encoder", None)
        if encoder is None:
            encoder, self._tokenizer = load_encoder(self.model)
            if self.max_length < 3:
                raise UserError(f"max_length {self.max_length}: must be 3 or more")
            self._longest = min(self.max_length, _positions(encoder))
            self._encoder = encoder.to(choose_device(self.device))
        return self._encoder


def load_encoder(name: str | Path) -> tuple[Any, Any]:
    """An encoder in evaluation mode, and its tokenizer; warns where the tokenizer loses chlorine's l.

    The published ChemBERTa tokenizers do so under current transformers. Features are then what others get
    from them, but C and Cl look alike.

    Raises:
        UserError: no such model, not one of transformers', with code of its own, or with pickled weights.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    found = find_weights(name, shipped=SHIPPED, command="molfeat-diffusion train")
    folder = Path(found)
    if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{name}: holds pickled weights (pytorch_model.bin), which may run code: save it as safetensors"
        )
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it would remark on the head that is left out
    logging.disable_progress_bar()
    try:
        # Unset, transformers asks on standard input whether to run a model's own code.
        tokenizer = AutoTokenizer.from_pretrained(str(found), trust_remote_code=False)
        encoder = AutoModel.from_pretrained(
            str(found), add_pooling_layer=False, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: not a language model that transformers can load ({first})"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if loses_chlorine(tokenizer):
        warnings.warn(
            f"{name}: its tokenizer loses the l of Cl (a known defect of the published ChemBERTa "
            "tokenizers): carbon and chlorine look alike",
            stacklevel=2,
        )
    return encoder.eval(), tokenizer


def loses_chlorine(tokenizer: Any) -> bool:
    """Whether CCl and CC become the same tokens, or the l is lost or unknown."""
    tokens = tokenizer.tokenize("CCl")
    return tokens in (["C", "C"], ["CC"]) or not any(
        token.endswith("l") for token in tokens if token != tokenizer.unk_token
    )


def build_tokenizer(smiles: Iterable[str], *, least: int = 5) -> Any:
    """Our tokenizer: one token for each atom, bond and ring number seen `least` times or more."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pattern = re.compile(TOKEN)
    counts = Counter(token for text in smiles for token in pattern.findall(text))
    words = [*SPECIAL, *sorted(token for token, count in counts.items() if count >= least)]
    index = {word: i for i, word in enumerate(words)}
    made = Tokenizer(WordLevel(index, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(TOKEN), behavior="isolated")
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def padded(tokens: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, length) int64 tokens, and the mask of the real ones."""
    length = max(map(len, tokens))
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in tokens])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
    return ids, mask


def _positions(encoder: Any) -> int:
    # RoBERTa's positions begin after that of padding.
    offset = encoder.config.pad_token_id + 1 if encoder.config.model_type == "roberta" else 0
    return int(encoder.config.max_position_embeddings) - offset
