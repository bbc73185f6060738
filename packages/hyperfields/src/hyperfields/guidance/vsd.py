"""Variational Score Distillation (ProlificDreamer, Wang et al. 2023).

Instead of the noise that was drawn, the gradient subtracts the noise that a second denoiser sees: the pre-trained
UNet with a LoRA, which learns the distribution of the renders meanwhile. We differ in that the LoRA's UNet is not
told the camera.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hyperfields.guidance.diffusion import DiffusionGuidance
from hyperfields.guidance.score import View, add_noise, with_gradient
from priors_shared.errors import UserError

ADAPTER = "renders"


class Vsd:
    """A guidance with its LoRA."""

    def __init__(self, guidance: DiffusionGuidance, *, rank: int = 4) -> None:
        """Add the LoRA to the UNet's attention; it begins as no change.

        Args:
            guidance: its UNet is changed in place.
            rank: of the LoRA.
        """
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise UserError(
                "method: vsd needs peft: pip install 'hyperfields[guidance]'"
            ) from error
        self.guidance = guidance
        layers = ["to_k", "to_q", "to_v", "to_out.0"]
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=True, target_modules=layers)
        guidance.unet.add_adapter(config, adapter_name=ADAPTER)
        self.lora = nn.ParameterList(p for p in guidance.unet.parameters() if p.requires_grad)
        """What is trained."""

    def losses(
        self,
        images: Float[Tensor, "batch 3 height width"],
        views: Sequence[View],
        step: int,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """One whose gradient in z is w(t) (eps_pretrained - eps_lora) / batch, and the LoRA's own: |eps_lora - eps|^2.

        The first has no gradient in the LoRA, the second none in the images. Arguments as of `sds_loss`.
        """
        guidance = self.guidance
        clean = guidance.encode(images)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        abar = guidance.alphas_cumprod[step].to(clean)
        noisy = add_noise(clean.detach(), noise, abar)
        guidance.unet.disable_adapters()
        with torch.no_grad():
            pretrained = guidance.predict_noise(noisy, step, views)
        guidance.unet.enable_adapters()
        adapted = guidance.noise(noisy, step, [view.prompt for view in views])
        gradient = (1 - abar) * (pretrained - adapted.detach())
        render_loss = with_gradient(clean, gradient / len(images))
        return render_loss, (adapted - noise).square().mean()
