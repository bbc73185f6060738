"""Trained hyper-networks as plain networks: safetensors for this package, ONNX for any runtime."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypernet_maml.config import CHECKPOINT_KIND, NetworkConfig
from hypernet_maml.hyperconv import reparameterize
from hypernet_maml.networks import Classifier
from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError

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


def checkpoint_bytes(net: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())
