"""SCEPTR (Nagano et al. 2025): a receptor's vector by a small transformer over its six loops.

The network is written out here, and its weights are read from the wheel `sceptr` (MIT licence), which is never
imported: it would hold pandas back. A test compares the vectors with the wheel's own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hypernet_maml.tcr.receptors import AMINO_ACIDS, LOOP_COLUMNS, Chain, Receptor, loops
from priors_shared.errors import UserError

DIM, LAYERS, HEADS = 64, 3, 8
_NULL, _CLS, _FIRST_LETTER = 0, 2, 3
_LETTERS, _COMPARTMENTS = _FIRST_LETTER + len(AMINO_ACIDS), 7


class Sceptr(nn.Module):
    """The published network: 153,108 parameters, of which the 64-dimensional unit vectors need 151,424."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(_LETTERS - 1 + 1 + _COMPARTMENTS - 1, DIM, bias=False)
        layer = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, batch_first=True)
        self.attention = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Int64[Tensor, "batch length 4"]) -> Float[Tensor, "batch 64"]:
        """Unit vectors. tokens: letter, position from 1, length of the loop, loop; zeros behind the end."""
        letter, position, length, loop = tokens.unbind(-1)
        relative = torch.where(length > 1, (position - 1) / (length - 1).clamp(min=1), 0.5)
        relative = torch.where(position == 0, 0.0, relative).to(torch.float32)
        one_hot = nn.functional.one_hot(letter, _LETTERS)[..., 1:]
        compartment = nn.functional.one_hot(loop, _COMPARTMENTS)[..., 1:]
        embedded = torch.cat([one_hot, relative.unsqueeze(-1), compartment], dim=-1).to(
            torch.float32
        )
        hidden = self.attention(self.project(embedded), src_key_padding_mask=letter == _NULL)
        return nn.functional.normalize(hidden[:, 0], dim=-1)


def load_sceptr() -> Sceptr:
    """The published weights, from the installed wheel.

    Raises:
        UserError: the wheel is not installed.
    """
    found = importlib.util.find_spec("sceptr")
    if found is None or found.origin is None:
        raise UserError("encoder sceptr needs its wheel: pip install 'hypernet-maml[sceptr]'")
    path = Path(found.origin).parent / "_model_saves" / "SCEPTR" / "state_dict.pt"
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = {
        "_self_attention_stack._initial_projector.": "project.",
        "_self_attention_stack._standard_stack._self_attention_stack.": "attention.",
    }
    state = {
        name.replace(theirs, ours): value
        for name, value in stored.items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }
    net = Sceptr()
    net.load_state_dict(state)
    return net.eval()


@torch.no_grad()
def sceptr_vectors(
    net: Sceptr, receptors: Sequence[Receptor], batch_size: int = 512
) -> Float[Tensor, "receptors 64"]:
    """The unit vectors of receptors, in their order."""
    vectors = [
        net(nn.utils.rnn.pad_sequence([_tokens(r) for r in receptors[i : i + batch_size]], True))
        for i in range(0, len(receptors), batch_size)
    ]
    return torch.cat(vectors) if vectors else torch.zeros(0, DIM)


def _tokens(receptor: Receptor) -> Tensor:
    rows = [(_CLS, 0, 0, 0)]
    for first, chain in ((1, receptor.alpha), (4, receptor.beta)):
        for loop, sequence in enumerate(_loops_of(chain), start=first):
            rows += [
                (_FIRST_LETTER + AMINO_ACIDS.index(letter), i, len(sequence), loop)
                for i, letter in enumerate(sequence, start=1)
            ]
    return torch.tensor(rows)


def _loops_of(chain: Chain | None) -> tuple[str, str, str]:
    if chain is None:
        return "", "", ""
    aligned = loops(chain.v) if chain.v else ""
    one, two = LOOP_COLUMNS["cdr1"], LOOP_COLUMNS["cdr1"] + LOOP_COLUMNS["cdr2"]
    return aligned[:one].replace(".", ""), aligned[one:two].replace(".", ""), chain.cdr3
