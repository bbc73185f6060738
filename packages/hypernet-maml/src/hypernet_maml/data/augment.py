"""Random crops, mirror images and grey; uint8 images to floats."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

PADDING = 4
CROP_SCALE, CROP_RATIO, GREY = (0.8, 1.0), (3 / 4, 4 / 3), 0.1
LUMA = (0.299, 0.587, 0.114)


def crop_and_flip(
    images: UInt8[Tensor, "batch channels height width"], generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Each image shifted by up to 4 pixels, black coming in, and flipped or not: as He et al. 2016.

    One gather for the batch; all randomness from a CPU generator.
    """
    batch, _, height, width = images.shape
    shift = torch.randint(2 * PADDING + 1, (2, batch, 1), generator=generator)
    flip = torch.randint(2, (batch, 1), generator=generator).bool()
    row, column = torch.arange(height), torch.arange(width)
    columns = torch.where(flip, width - 1 - column, column)
    rows, columns = (row + shift[0]).to(images.device), (columns + shift[1]).to(images.device)
    padded = F.pad(images, (PADDING,) * 4)
    which = torch.arange(batch, device=images.device)
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def crop_and_grey(
    images: Float[Tensor, "batch channels height width"], generator: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """A random part of each square image in its full size, and one image in ten in grey.

    A part has 0.8 to 1 of the area and sides of 3 : 4 to 4 : 3, as torchvision's RandomResizedCrop
    draws it: up to ten tries, else the whole image; bilinear.
    """
    batch = len(images)
    low, high = CROP_RATIO
    area = torch.empty(batch, 10).uniform_(*CROP_SCALE, generator=generator)
    ratio = torch.empty(batch, 10).uniform_(math.log(low), math.log(high), generator=generator)
    sides = torch.stack([area * ratio.exp(), area / ratio.exp()]).sqrt()  # (2: width, height)
    fits = (sides <= 1).all(0)
    first = fits.int().argmax(1, keepdim=True).expand(2, batch, 1)
    drawn = sides.gather(2, first).squeeze(2)
    side = torch.where(fits.any(1), drawn, 1.0)
    centre = (1 - side) * (2 * torch.rand(2, batch, generator=generator) - 1)
    parts = torch.zeros(batch, 2, 3)  # affine maps of [-1, 1]^2 into itself
    parts[:, 0, 0], parts[:, 1, 1] = side
    parts[:, :, 2] = centre.T
    grid = F.affine_grid(parts.to(images), list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    grey = torch.rand(batch, generator=generator) < GREY
    if images.shape[1] == len(LUMA):
        light = (cropped * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        cropped = torch.where(grey.to(images.device)[:, None, None, None], light, cropped)
    return cropped


def as_input(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """uint8 0 .. 255 to float32 0 .. 1."""
    return images.to(torch.float32) / 255
