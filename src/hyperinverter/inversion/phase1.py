"""Phase I: photo -> w -> image, with the generator as it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.frozen import Held, evaluating
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.wplus import WPlusEncoder


class WInverter(Drawing):
    """Photo -> w -> image; with an encoder to W+ one code per style layer.

    The generator is in a ``Held``: it moves with this module, but ``state_dict()``, ``parameters()`` and
    ``train()`` do not include it. A checkpoint holds the encoder alone and loads strictly; the generator
    comes from its own file.

    Args:
        generator: Put into eval mode and frozen in place.
        encoder: Gives offsets from the generator's mean w.
    """

    def __init__(self, generator: Generator, encoder: WEncoder | WPlusEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self._frozen_generator = Held(generator)

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        return self._frozen_generator.network

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimizer: the encoder's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def encode(self, photo: Tensor) -> Tensor:
        """Place photos ``(B, 3, H, W)`` in W: ``w_avg + encoder(photo)``, ``(B, D)``, or ``(B, L, D)`` in W+."""
        check_photo(photo)
        w = self.encoder(photo)
        return self.generator.w_avg + w if self.encoder.from_mean else w

    def forward(self, photo: Tensor) -> Inversion:
        """Invert photos, RGB ``(B, 3, H, W)`` in [-1, 1]; gradients reach the encoder.

        Photos may have any size: the encoder resizes them to its own, bilinear and without antialiasing, as published
        encoders do (a photo that is not square is squeezed). Images are ``(B, 3, R, R)``.

        Raises:
            ValueError: If ``photo`` has another shape.
        """
        w = self.encode(photo)
        image = self.draw_unseen(w)
        return Inversion(w=w, residuals={}, w_image=image, image=image)

    @torch.no_grad()
    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """``forward`` in eval mode and without gradients; the module's own mode is kept.

        ``strength`` is that of every way to invert; there are no residuals here, so it changes nothing.
        """
        with evaluating(self):
            return self(as_photos(images, like=self.generator.w_avg))


def check_photo(photo: Tensor) -> None:
    """Raise ``ValueError`` unless ``photo`` is ``(B, 3, H, W)`` with at least one pixel."""
    if photo.ndim != 4 or photo.shape[1] != 3 or 0 in photo.shape[2:]:
        raise ValueError(f"expected photos (B, 3, H, W), RGB in [-1, 1], got {tuple(photo.shape)}")


def as_photos(images: object, like: Tensor) -> Tensor:
    """What people pass to ``invert``, as photos ``(B, 3, H, W)`` on a device and in a type.

    One photo may come without a batch axis, and numbers in another floating type. Pixels are not guessed: bytes,
    pictures and arrays have another range or order of axes.

    Args:
        images: RGB in [-1, 1].
        like: A tensor of the model: its device and type are used.

    Raises:
        TypeError: For anything but a floating tensor; the sentence says what makes one.
        ValueError: For another shape, an empty batch, or values that are no photo in [-1, 1]; values are looked at
            where photos come from the host.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected a tensor of photos (B, 3, H, W), RGB in [-1, 1], got {type(images).__name__}; read_photo(PATH, "
            "resolution) makes one from a file, and hyperinverter.data.transforms.to_tensor from pixels (H, W, 3)"
        )
    if images.layout != torch.strided or images.is_meta:
        raise TypeError(
            "expected a dense tensor of photos with values, got one that is sparse or without any"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"expected photos as floating numbers in [-1, 1], got {images.dtype}; bytes become photos by "
            "images.float() / 127.5 - 1"
        )
    photos = images[None] if images.ndim == 3 else images
    check_photo(photos)
    if len(photos) == 0:
        raise ValueError("there is no photo in this batch: give at least one")
    on_host = photos.device.type == "cpu"
    photos = photos.to(like)
    if not on_host:
        return photos  # to look at values on a GPU is to wait for all that was asked of it
    if type(photos) is not Tensor or torch.compiler.is_compiling():
        return photos  # a tensor that is only traced or counted has no values to check
    largest = float(photos.abs().amax())  # one number for finiteness and range
    if not largest <= 8:  # also true of not-a-number; a little beyond 1 is common after resampling
        said = (
            "it holds numbers that are not finite" if largest != largest else f"its values reach {largest:g}"
        )
        raise ValueError(
            f"expected photos in [-1, 1], but {said}; images in 0..255 become photos by x / 127.5 - 1"
        )
    return photos
