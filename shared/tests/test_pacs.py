"""PACS: the official lists decide what is in a split, and the folder names the class."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priors_shared.datasets import load_dataset
from priors_shared.datasets.pacs import CLASSES, DOMAINS, load_pacs
from priors_shared.errors import UserError

PARTS = {"train": 3, "crossval": 1}  # images of each class


def made_image(domain: str, label: int, number: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (60 * DOMAINS.index(domain), 30 * label, 50 * number))


def colours(dataset):
    return [tuple(image.tolist()) for image in dataset.images.float().mean((2, 3)).round()]


def expected_colours(domain: str, split: str) -> list[tuple[float, ...]]:
    numbers = {"train": range(3), "crossval": range(3, 4), "all": range(4)}[split]
    made = (made_image(domain, label, n) for label in range(7) for n in numbers)
    return [tuple(map(float, image.getpixel((0, 0)))) for image in made]


def write_folders(root: Path, domains: tuple[str, ...] = DOMAINS) -> Path:
    folder = root / "pacs"
    for domain in domains:
        lines: dict[str, list[str]] = {part: [] for part in PARTS}
        for label, name in enumerate(CLASSES):
            images = folder / "kfold" / domain / name
            images.mkdir(parents=True)
            for number in range(4):
                part = "train" if number < 3 else "crossval"
                made_image(domain, label, number).save(images / f"pic_{number}.png")
                lines[part].append(f"{domain}/{name}/pic_{number}.png {label + 1}")
            made_image(domain, label, 5).save(images / "not_listed.png")
        lines["train"][0] = lines["train"][0][:-1] + "4"  # as in the lists before their mend
        for part, listed in lines.items():
            (folder / f"{domain}_{part}_kfold.txt").write_text("\n".join(listed) + "\n")
    return folder


def write_packed(root: Path, *, broken: str = "") -> None:
    jpegs: list[bytes] = []
    rows = []
    for domain in DOMAINS:
        for label in range(7):
            for number in range(4):
                buffer = io.BytesIO()
                made_image(domain, label, number).save(buffer, "PNG")
                jpegs.append(b"broken" if domain == broken else buffer.getvalue())
                rows.append((DOMAINS.index(domain), label, int(number == 3)))
    domain_of, label_of, split_of = np.array(rows, np.uint8).T
    (root / "pacs").mkdir()
    np.savez(
        root / "pacs" / "pacs_112.npz",
        jpeg_bytes=np.frombuffer(b"".join(jpegs), np.uint8),
        offset=np.cumsum([0, *map(len, jpegs)]),
        domain=domain_of,
        label=label_of,
        split=split_of,
    )


@pytest.mark.parametrize("write", [write_folders, write_packed])
@pytest.mark.parametrize("split", ["train", "crossval", "all"])
def test_a_domain_has_the_listed_images_with_their_classes(tmp_path, write, split):
    write(tmp_path)
    for domain in DOMAINS:
        dataset = load_pacs(domain, split, tmp_path, image_size=20)
        assert (dataset.name, dataset.split) == (f"pacs-{domain}", split)
        assert dataset.class_names == CLASSES
        assert sorted(colours(dataset)) == sorted(expected_colours(domain, split))
        assert torch.equal(dataset.images[:, 1, 0, 0].long(), 30 * dataset.targets)
        same = load_dataset(f"pacs-{domain}", split, tmp_path, image_size=20)
        assert torch.equal(same.images, dataset.images)


def test_the_registry_gives_112_pixels_and_other_sizes_on_demand(tmp_path):
    write_folders(tmp_path, ("photo",))
    assert load_dataset("pacs-photo", "crossval", tmp_path).image_shape == (3, 112, 112)
    small = load_dataset("pacs-photo", "crossval", tmp_path, image_size=9)
    assert small.image_shape == (3, 9, 9)
    assert Path(small.paths[0]).parts[-3:] == ("photo", "dog", "pic_3.png")
    with pytest.raises(UserError, match="image_size must be at least 1 pixel, got 0"):
        load_pacs("photo", "train", tmp_path, image_size=0)


def test_only_the_images_of_the_domain_are_decoded(tmp_path):
    write_packed(tmp_path, broken="cartoon")
    assert len(load_pacs("photo", "all", tmp_path, image_size=20)) == 28
    with pytest.raises(UserError, match=r"cannot read an image .*: download PACS again"):
        load_pacs("cartoon", "crossval", tmp_path)


def test_what_is_wrong_with_the_files_is_named(tmp_path):
    folder = write_folders(tmp_path, ("photo", "sketch"))
    with pytest.raises(UserError, match="unknown PACS domain 'oil': choose photo, art_painting, "):
        load_pacs("oil", "train", tmp_path)
    with pytest.raises(UserError, match=r"cartoon_train_kfold\.txt .*download PACS' lists"):
        load_pacs("cartoon", "train", tmp_path)
    (folder / "kfold" / "photo" / "dog" / "pic_1.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*pic_1\.png .*: download PACS again"):
        load_pacs("photo", "train", tmp_path)
    listed = folder / "sketch_crossval_kfold.txt"
    for line in ("sketch/cat/pic_0.png 1", "photo/dog/pic_0.png 1", "sketch.png"):
        listed.write_text(line)
        with pytest.raises(UserError, match=rf"has the line '{line}': not sketch/CLASS/FILE"):
            load_pacs("sketch", "all", tmp_path)
    listed.write_text("\n")
    with pytest.raises(UserError, match="lists no image of sketch"):
        load_pacs("sketch", "crossval", tmp_path)


COUNTS = {  # dog elephant giraffe guitar horse house person; images in crossval
    "photo": ([189, 202, 182, 186, 199, 280, 432], 171),
    "art_painting": ([379, 255, 285, 184, 201, 295, 449], 208),
    "cartoon": ([389, 457, 346, 135, 324, 288, 405], 237),
    "sketch": ([772, 740, 753, 608, 816, 80, 160], 398),
}


@pytest.mark.reference
@pytest.mark.parametrize("domain", DOMAINS)
def test_packed_pacs_has_the_published_counts_and_its_parts_make_the_whole(reference_data, domain):
    whole, train, crossval = (
        load_pacs(domain, split, reference_data) for split in ("all", "train", "crossval")
    )
    by_class, in_crossval = COUNTS[domain]
    assert torch.bincount(whole.targets).tolist() == by_class
    assert len(crossval) == in_crossval
    assert whole.image_shape == (3, 112, 112)

    def pictures(dataset):
        numbered = zip(dataset.targets.tolist(), dataset.images.numpy(), strict=True)
        return [(target, image.tobytes()) for target, image in numbered]

    assert sorted(pictures(train) + pictures(crossval)) == sorted(pictures(whole))
