"""Trained hyper-networks as plain networks: safetensors for this package, ONNX for any runtime."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypernet_maml.config import CHECKPOINT_KIND, META_KIND, NetworkConfig
from hypernet_maml.models.hyperconv import reparameterize
from hypernet_maml.models.networks import Classifier
from hypernet_maml.pretrained import FewShotLearner
from priors_shared.cards import model_card, read_evaluation
from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.reports import Cell, Table

TOLERANCE = 1e-4
"""Largest difference of an ONNX runtime's logits, relative to the largest logit."""


def export_safetensors(
    net: Classifier, config: NetworkConfig, folder: Path, *, trained: dict[str, Any]
) -> Classifier:
    """Write the plain network (its config.json says sharing "none"); returns it. Same logits, to the bit."""
    plain = reparameterize(net).eval()
    assert isinstance(plain, Classifier)
    shape = asdict(replace(config, sharing="none"))
    save_weights(folder, plain, kind=CHECKPOINT_KIND, config=shape, extra={"trained": trained})
    return plain


def export_onnx(net: Classifier, config: NetworkConfig, path: Path) -> Counter[str]:
    """Write the plain network as ONNX, check it, and return how often each operator occurs.

    Input "images": float (batch, channels, height, width) in [0, 1], any batch; output "logits".
    Checked with onnxruntime on random images: the logits are the network's, within `TOLERANCE`.

    Raises:
        UserError: the extra is not installed, or the check fails.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"ONNX export needs {error.name}: pip install 'hypernet-maml[onnx]'"
        ) from error
    plain = reparameterize(net).eval()
    images = torch.rand(2, config.channels, config.image_size, config.image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        plain,
        (images,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (2, 5):
        images = torch.rand(count, *images.shape[1:])
        with torch.no_grad():
            expected = plain(images)
        (found,) = session.run(None, {"images": images.numpy()})
        off = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max())
        if not off <= TOLERANCE:
            raise UserError(
                f"{path}: onnxruntime's logits differ from the network's by {off:.1e} of the largest; the "
                "file is not to be trusted"
            )
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def export_learner(learner: FewShotLearner, folder: Path, results: Sequence[Path] = ()) -> None:
    """Write a meta-trained learner with a model card.

    results: files that `hypernet-maml eval --out` wrote, whose accuracies the card lists.

    Raises UserError for a file that is no such result.
    """
    keys = ("accuracy", "half_width", "dataset", "split", "ways", "shots", "episodes")
    found = [read_evaluation(path, *keys, program="hypernet-maml") for path in results]
    net, inner = learner.learner.net, learner.learner.inner
    shape = {"network": asdict(learner.network), "inner": asdict(inner)}
    save_weights(
        folder, learner.learner, kind=META_KIND, config=shape, extra={"trained": learner.trained}
    )
    write_atomically(folder / "README.md", _card(folder.name, learner, net, found))


def _card(
    name: str, learner: FewShotLearner, net: nn.Module, results: Sequence[dict[str, Any]]
) -> str:
    network, trained = learner.network, learner.trained
    steps = trained.get("steps", trained.get("iterations"))  # older checkpoints' word
    generated = "plain" if network.sharing == "none" else f"hypernetworks {network.sharing}"
    size = f"{network.channels}, {network.image_size}, {network.image_size}"
    wide = (
        f"-{network.depth}-{network.width}" if network.kind == "wrn" else f", width {network.width}"
    )
    inner = asdict(learner.learner.inner)
    rows: list[list[Cell]] = [
        [
            *(r[key] for key in ("dataset", "split", "ways", "shots")),
            f"{100 * r['accuracy']:.1f} ± {100 * r['half_width']:.1f}",
            r["episodes"],
        ]
        for r in results
    ]
    caption = "Accuracy in percent on tasks of classes it was not trained on, with 95 % intervals over tasks."
    return model_card(
        name,
        f"A few-shot learner of up to {learner.ways} classes: it learns them from a few images each, in "
        "gradient steps that take a fraction of a second.",
        examples={
            "": f"hypernet-maml adapt {shlex.quote(name)} images/ --shots 5  # images/CLASS/FILE",
            "python": "from hypernet_maml import FewShotLearner\n\n"
            f"learner = FewShotLearner.from_pretrained({name!r})  # or this folder\n"
            f"classifier = learner.adapt(images, labels)  # float (items, {size}) in [0, 1]; int64\n"
            "predicted = classifier.predict(new_images)",
        },
        facts={
            "Network": f"{network.kind}{wide}",
            "Weights": f"{generated}; {sum(p.numel() for p in net.parameters()):,} parameters",
            "Inner loop": ", ".join(f"{key} {value}" for key, value in inner.items()),
            "Meta-trained on": f"{trained.get('dataset', 'unknown')}, {trained.get('shots')} shots, "
            f"{steps} steps of {trained.get('tasks')} tasks, seed {trained.get('seed')}",
            "Batch norm": "uses the statistics of the images that are predicted together: predict many at once",
        },
        parts=[Table(["data", "classes", "ways", "shots", "accuracy", "tasks"], rows, caption)]
        if results
        else [],
    )


def checkpoint_bytes(net: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())
