"""FC100 (Oreshkin et al. 2018): CIFAR-100 split by coarse class, 60 / 20 / 20 fine classes.

Train and test classes then differ more than in CIFAR-FS, where close kin may stand on either side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from priors_shared.datasets.base import ImageDataset, check_split
from priors_shared.datasets.cifar import load_cifar100

FINE_OF_COARSE: dict[str, tuple[str, ...]] = {
    coarse: tuple(fine.split())
    for coarse, fine in {
        "aquatic_mammals": "beaver dolphin otter seal whale",
        "fish": "aquarium_fish flatfish ray shark trout",
        "flowers": "orchid poppy rose sunflower tulip",
        "food_containers": "bottle bowl can cup plate",
        "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
        "household_electrical_devices": "clock keyboard lamp telephone television",
        "household_furniture": "bed chair couch table wardrobe",
        "insects": "bee beetle butterfly caterpillar cockroach",
        "large_carnivores": "bear leopard lion tiger wolf",
        "large_man-made_outdoor_things": "bridge castle house road skyscraper",
        "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
        "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
        "medium_mammals": "fox porcupine possum raccoon skunk",
        "non-insect_invertebrates": "crab lobster snail spider worm",
        "people": "baby boy girl man woman",
        "reptiles": "crocodile dinosaur lizard snake turtle",
        "small_mammals": "hamster mouse rabbit shrew squirrel",
        "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "vehicles_1": "bicycle bus motorcycle pickup_truck train",
        "vehicles_2": "lawn_mower rocket streetcar tank tractor",
    }.items()
}
"""CIFAR-100's 20 coarse classes and the five fine ones of each."""

_VAL = (
    "large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates",
    "small_mammals",
)  # fmt: skip
_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")
FC100_COARSE: dict[str, tuple[str, ...]] = {
    "train": tuple(coarse for coarse in FINE_OF_COARSE if coarse not in _VAL + _TEST),
    "val": _VAL,
    "test": _TEST,
}
FC100_CLASSES: dict[str, tuple[str, ...]] = {
    split: tuple(sorted(fine for coarse in listed for fine in FINE_OF_COARSE[coarse]))
    for split, listed in FC100_COARSE.items()
}


def load_fc100(split: str = "train", data_root: str | Path | None = None) -> ImageDataset:
    """FC100: 32 x 32 RGB, all 600 images of each of 60 / 20 / 20 classes.

    split: "train", "val", "test" (classes; the published lists by coarse class) or "all".
    data_root: as for `load_cifar100`. Raises UserError when CIFAR-100 is not there.
    """
    check_split(split)
    classes = None if split == "all" else FC100_CLASSES[split]
    return replace(load_cifar100("all", data_root, classes=classes), name="fc100", split=split)
