"""Diffusion models on disk: our own checkpoints, and the import of MiDi's published ones."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molfeat_diffusion.config import CHECKPOINT_KIND, ModelConfig, NetworkConfig, NoiseConfig
from molfeat_diffusion.data.molecules import VOCABULARIES, Marginals
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.models.network import Compat
from priors_shared.checkpoints import find_weights, load_module, load_weights, save_weights
from priors_shared.errors import UserError

SHIPPED = Path(__file__).parent / "weights"


def save_model(folder: Path, model: MiDi, **extra: Any) -> str:
    """Write weights, configuration, marginals and sizes; `extra` goes to config.json as it is.

    Returns the SHA-256 of the weights' file.
    """
    known: dict[str, Any] = {"marginals": None, "sizes": None, **extra}
    if model.knows_marginals:
        known["marginals"] = {k: v.tolist() for k, v in model.marginals._asdict().items()}
    if model.sizes is not None:
        known["sizes"] = model.sizes.tolist()
    save_weights(folder, model, kind=CHECKPOINT_KIND, config=asdict(model.config), extra=known)
    return load_weights(folder, kind=CHECKPOINT_KIND)[0]["digest"]


def load_model(name: str | Path, *, compat: Compat = "none") -> tuple[MiDi, dict[str, Any]]:
    """The model in evaluation mode on the CPU, and config.json.

    Args:
        name: checkpoint folder, run folder, or Hugging Face Hub id.
        compat: see `network.Denoiser`.

    Raises:
        UserError: nothing there, or not a model of this package.
    """
    found = find_weights(name, shipped=SHIPPED, command="molfeat-diffusion train")
    record, weights = load_weights(found, kind=CHECKPOINT_KIND)

    def make() -> MiDi:
        config = record["config"]
        model_config = ModelConfig(
            vocabulary=config["vocabulary"],
            kekulized=config.get("kekulized", False),
            network=NetworkConfig(**config["network"]),
            noise=NoiseConfig(**config["noise"]),
        )
        marginals, sizes = record.get("marginals"), record.get("sizes")
        return MiDi(
            model_config,
            marginals=marginals and Marginals(**{k: _doubles(v) for k, v in marginals.items()}),
            sizes=None if sizes is None else torch.tensor(sizes),
            compat=compat,
        )

    return load_module(found, make, weights), record


def _doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- MiDi's published checkpoints ---


class _Inert:
    """Stands in for a class that a published checkpoint names: holds its fields, runs none of its code."""


_INERT = (
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
)
_ALLOWED: list[Any] = [
    *((type(name.rpartition(".")[2], (_Inert,), {}), name) for name in _INERT),
    # Containers and a type that omegaconf's metadata name; harmless as they are.
    *((kind, f"{kind.__module__}.{kind.__name__}") for kind in (int, list, dict, defaultdict)),
]
"""What a published checkpoint may name, and what that becomes here."""


def import_midi(path: Path, *, noise: NoiseConfig | None = None) -> MiDi:
    """The model in a Lightning checkpoint of the public MiDi code, without marginals and sizes.

    Read with `weights_only`: the checkpoint can name the classes of an allow-list, which inert stand-ins
    replace, and nothing else; none of its code runs. Sizes of the network are read from the tensors.

    Args:
        path: the .ckpt file.
        noise: the schedule it was trained with; None: as the checkpoint's configuration says.

    Raises:
        UserError: no such file, not such a checkpoint, or no schedule in it.
    """
    content = _read_checkpoint(path)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: not a Lightning checkpoint (it has no state_dict)")
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    config = ModelConfig(
        vocabulary=_vocabulary(path, weights),
        network=_network(path, weights),
        noise=noise or _noise(path, content),
    )
    model = MiDi(config)
    try:
        model.denoiser.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise UserError(f"{path}: not MiDi's network: {lines[:300]}") from None
    return model.eval()


def _read_checkpoint(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"names {named.group(1)}, which is not on the allow-list"
            if named
            else "is unreadable or truncated"
        )
        raise UserError(f"{path}: {what}; it was not loaded, and nothing of it was run") from None
    except Exception as error:  # torch fails in many ways on what is no checkpoint
        raise UserError(
            f"{path}: not a torch checkpoint, or truncated ({type(error).__name__})"
        ) from None


def _shape(path: Path, weights: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in weights:
        raise UserError(f"{path}: not MiDi's network: it has no {name}")
    return weights[name].shape


def _vocabulary(path: Path, weights: Mapping[str, Tensor]) -> Any:
    inputs = _shape(path, weights, "mlp_in_X.0.weight")[1]
    sizes = {len(v.elements) + len(v.charges): name for name, v in VOCABULARIES.items()}
    if inputs not in sizes:
        known = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        raise UserError(
            f"{path}: its network reads {inputs} numbers per atom; known are {known}: networks with extra "
            "features, or of other data, cannot be imported"
        )
    return sizes[inputs]


def _network(path: Path, weights: Mapping[str, Tensor]) -> NetworkConfig:
    def size(name: str, dim: int = 0) -> int:
        return _shape(path, weights, f"{name}.weight")[dim]

    layers = {int(m.group(1)) for k in weights if (m := re.match(r"tf_layers\.(\d+)\.", k))}
    first = "tf_layers.0"
    return NetworkConfig(
        layers=max(layers, default=0) + 1,
        mlp_atoms=size("mlp_in_X.0"),
        mlp_bonds=size("mlp_in_E.0"),
        mlp_global=size("mlp_in_y.0"),
        mlp_positions=size("mlp_in_pos.mlp.0"),
        width_atoms=size("mlp_in_X.2"),
        width_bonds=size("mlp_in_E.2"),
        width_global=size("mlp_in_y.2"),
        heads=size(f"{first}.self_attn.a"),
        feed_forward_atoms=size(f"{first}.linX1"),
        feed_forward_bonds=size(f"{first}.linE1"),
        feed_forward_global=size(f"{first}.lin_y1"),
    )


def _noise(path: Path, content: Mapping[str, Any]) -> NoiseConfig:
    try:
        model = _plain(content["hyper_parameters"]["cfg"])["model"]
        nu = model["nu"]
        return NoiseConfig(
            timesteps=int(model["diffusion_steps"]),
            nu_positions=float(nu["p"]),
            nu_atoms=float(nu["x"]),
            nu_charges=float(nu["c"]),
            nu_bonds=float(nu["e"]),
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: it does not say which noise schedule it was trained with: give --schedule"
        ) from None


def _plain(node: Any) -> Any:
    """The values of an omegaconf tree of stand-ins."""
    if isinstance(node, _Inert):
        fields = vars(node)
        return _plain(fields["_content"] if "_content" in fields else fields["_val"])
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list | tuple) else node
