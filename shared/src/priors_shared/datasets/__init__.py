"""Image datasets with class-disjoint splits, by name: `load_dataset("omniglot", "train")`.

Importing this package is cheap: torch and the loaders are imported when they are used.
"""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priors_shared.errors import UserError

if TYPE_CHECKING:
    from priors_shared.datasets.base import ImageDataset as ImageDataset
    from priors_shared.datasets.base import resolve_data_root as resolve_data_root
    from priors_shared.datasets.base import subset_per_class as subset_per_class
    from priors_shared.datasets.base import with_rotations as with_rotations
    from priors_shared.datasets.cifar import load_cifar100 as load_cifar100
    from priors_shared.datasets.cifar import load_cifar_fs as load_cifar_fs
    from priors_shared.datasets.cifar10 import load_cifar10 as load_cifar10
    from priors_shared.datasets.fc100 import load_fc100 as load_fc100
    from priors_shared.datasets.glyphs import load_glyphs as load_glyphs
    from priors_shared.datasets.image_folder import load_image_folder as load_image_folder
    from priors_shared.datasets.miniimagenet import load_miniimagenet as load_miniimagenet
    from priors_shared.datasets.omniglot import load_omniglot as load_omniglot
    from priors_shared.datasets.pacs import load_pacs as load_pacs
    from priors_shared.datasets.tiny_imagenet import load_tiny_imagenet as load_tiny_imagenet

_MODULE_OF = {
    "ImageDataset": "base",
    "resolve_data_root": "base",
    "subset_per_class": "base",
    "with_rotations": "base",
    "load_cifar10": "cifar10",
    "load_cifar100": "cifar",
    "load_cifar_fs": "cifar",
    "load_fc100": "fc100",
    "load_glyphs": "glyphs",
    "load_image_folder": "image_folder",
    "load_miniimagenet": "miniimagenet",
    "load_omniglot": "omniglot",
    "load_pacs": "pacs",
    "load_tiny_imagenet": "tiny_imagenet",
}
_LOADER_OF = {
    "omniglot": "load_omniglot",
    "glyphs": "load_glyphs",
    "cifar-fs": "load_cifar_fs",
    "cifar100": "load_cifar100",
    "cifar10": "load_cifar10",
    "fc100": "load_fc100",
    "miniimagenet": "load_miniimagenet",
    "tiny-imagenet": "load_tiny_imagenet",
    "pacs-photo": "load_pacs",
    "pacs-art_painting": "load_pacs",
    "pacs-cartoon": "load_pacs",
    "pacs-sketch": "load_pacs",
}
DATASETS = tuple(_LOADER_OF)
FOLDER = "folder:"
PACS = "pacs-"


def load_dataset(
    name: str, split: str = "train", data_root: str | Path | None = None, **options: Any
) -> ImageDataset:
    """The dataset of that name: one of DATASETS, or "folder:PATH" for a folder of images.

    options: those of the loader, such as `rotations` for characters, `image_size` for MiniImageNet,
    Tiny-ImageNet and PACS, or `image_size`, `channels` and `invert` for a folder (28, 1 and "auto"
    unless given: characters like Omniglot's).
    Raises UserError for an unknown name or option, and when the data is not there.
    """
    if name.startswith(FOLDER):
        from priors_shared.datasets.image_folder import load_image_folder

        _check_options(name, load_image_folder, options)
        defaults = {"image_size": 28, "channels": 1, "invert": "auto"}
        return load_image_folder(name[len(FOLDER) :], split=split, **{**defaults, **options})
    if name not in _LOADER_OF:
        raise UserError(
            f"unknown dataset {name!r}: choose {', '.join(DATASETS)}, or {FOLDER}PATH for a "
            "folder with one subfolder of images per class"
        )
    loader = __getattr__(_LOADER_OF[name])
    if name.startswith(PACS):
        loader = partial(loader, name[len(PACS) :])
    _check_options(name, loader, options)
    return loader(split, data_root, **options)


def _check_options(name: str, loader: Any, options: dict[str, Any]) -> None:
    known = [option for option in inspect.signature(loader).parameters if option not in _OWN]
    for option in options:
        if option not in known:
            raise UserError(
                f"dataset {name} has no option {option!r}: it has {', '.join(known) or 'none'}"
            )


_OWN = ("split", "data_root", "path")


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
