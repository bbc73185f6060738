"""MiniImageNet (Vinyals et al. 2016) with the class lists of Ravi & Larochelle 2017: 64 / 16 / 20."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from priors_shared.datasets.base import SPLITS, ImageDataset, check_split, resolve_data_root
from priors_shared.datasets.image_folder import load_image_folder, subfolders
from priors_shared.errors import UserError

FOLDER = Path("miniimagenet")
MINI_IMAGENET_CLASSES: dict[str, tuple[str, ...]] = {
    split: tuple(f"n{number}" for number in numbers.split())
    for split, numbers in {
        "train": (
            "01532829 01558993 01704323 01749939 01770081 01843383 01910747 02074367 02089867 "
            "02091831 02101006 02105505 02108089 02108551 02108915 02111277 02113712 02120079 "
            "02165456 02457408 02606052 02687172 02747177 02795169 02823428 02966193 03017168 "
            "03047690 03062245 03207743 03220513 03337140 03347037 03400231 03476684 03527444 "
            "03676483 03838899 03854065 03888605 03908618 03924679 03998194 04067472 04243546 "
            "04251144 04258138 04275548 04296562 04389033 04435653 04443257 04509417 04515003 "
            "04596742 04604644 04612504 06794110 07584110 07697537 07747607 09246464 13054560 "
            "13133613"
        ),
        "val": (
            "01855672 02091244 02114548 02138441 02174001 02950826 02971356 02981792 03075370 "
            "03417042 03535780 03584254 03770439 03773504 03980874 09256479"
        ),
        "test": (
            "01930112 01981276 02099601 02110063 02110341 02116738 02129165 02219486 02443484 "
            "02871525 03127925 03146219 03272010 03544143 03775546 04146614 04149813 04418357 "
            "04522168 07613480"
        ),
    }.items()
}
"""The wnids of each split, as in the published lists."""
LAYOUT = (
    "ROOT/miniimagenet must hold train, val and test, each with one folder of images per class "
    "(train/n01532829/*.jpg)"
)
HOW_TO_GET = (
    "MiniImageNet not found under {root}. Get its images (github.com/yaoyao-liu/mini-imagenet-tools "
    "makes them from a download of ImageNet), put them into ROOT and give --data-root ROOT (or set "
    "PRIORS_DATA): {layout}. --dataset glyphs needs no download."
)


def load_miniimagenet(
    split: str = "train", data_root: str | Path | None = None, image_size: int = 84
) -> ImageDataset:
    """MiniImageNet at 84 x 84, RGB; whole, it has 600 images of each of 64 / 16 / 20 classes.

    split: "train", "val", "test" (classes; the lists of Ravi & Larochelle) or "all".
    data_root: the folder that holds miniimagenet/{train,val,test}/CLASS/*.jpg; None means
    PRIORS_DATA. Classes may have any name, but a wnid must be in its published split.
    Files that cannot be read go to `skipped`, as in `load_image_folder`.
    Raises UserError when the folder is not there, has another layout, or mixes the splits.
    """
    check_split(split)
    root = resolve_data_root(data_root)
    if root is None or not (root / FOLDER).is_dir():
        where = root or "PRIORS_DATA, which is not set"
        raise UserError(HOW_TO_GET.format(root=where, layout=LAYOUT))
    classes = {part.name: subfolders(part) for part in subfolders(root / FOLDER)}
    if set(classes) != set(SPLITS) or not all(classes.values()):
        found = ", ".join(name for name in classes) or "no folders"
        raise UserError(f"{root / FOLDER} holds {found}, or one of them is empty: {LAYOUT}")
    for part, folders in classes.items():
        for folder in folders:
            _check_side(folder, part)
    dataset = load_image_folder(root / FOLDER, image_size=image_size, channels=3, split=split)
    return replace(dataset, name="miniimagenet")


def _check_side(folder: Path, split: str) -> None:
    for other, wnids in MINI_IMAGENET_CLASSES.items():
        if other != split and folder.name in wnids:
            raise UserError(
                f"{folder} is a {other} class in the published lists: move it to {other}, or "
                "results on unseen classes would not be"
            )
