"""Feature residuals: what a code and weights cannot say, added to feature maps of the generator.

Methods that change a feature map (Feature-Style encoder, StyleRes, StyleFeatureEditor) keep more of a photo than
those that predict weights: a vector per layer has no place for where a detail is. Here the map is *added* to what a
layer gives, so that a code that moves still moves what lies under it. The generator has maps of its own as well, its
constant and its stored noise: what is added there stays in a plain StyleGAN2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

KIND = ".features"  # ends the name of a feature residual, as .weight ends that of a kernel's
# The generator's own maps: its constant, and what ends the names of its noise.
CONST, NOISE = "b4.const", ".noise"


class FeatureResiduals(nn.Module):
    """Differences of pyramid levels -> feature residuals: two 3x3 convolutions for each place.

    Args:
        maps: Layer of the generator, such as ``b8.conv1`` -> shape of its map, (C, S, S); and the generator's own maps,
            ``b4.const`` and ``b8.conv1.noise`` (``Synthesis.own_maps``).
        places: Those of ``maps`` that receive a residual.
        channels: Of the pyramid's levels.
        width: Channels between the two convolutions.
        scale: Factor of the residual: maps are of size 1, and what is missing is a tenth of that.

    Raises:
        ValueError: For places that the generator does not have, none at all, or a place named twice.
    """

    def __init__(
        self,
        maps: Mapping[str, tuple[int, int, int]],
        places: Sequence[str],
        channels: int,
        width: int = 64,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        if unknown := [place for place in places if place not in maps]:
            raise ValueError(f"no layer is called {unknown[0]!r}; feature residuals fit {', '.join(maps)}")
        if not places or len(set(places)) < len(places):
            raise ValueError("feature residuals need places, each named once")
        self.places, self.width, self.scale = tuple(places), width, scale
        self.side = {place: maps[place][1] for place in places}
        self.heads = nn.ModuleDict(
            {
                place.replace(".", "_"): nn.Sequential(
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.LeakyReLU(0.2),
                    nn.Conv2d(width, maps[place][0], 3, padding=1),
                )
                for place in places
            }
        )

    @property
    def between_layers(self) -> bool:
        """Whether some are added to what layers give, and not all to the generator's own maps."""
        return any(place != CONST and not place.endswith(NOISE) for place in self.places)

    @property
    def sides(self) -> list[int]:
        """Sides of the maps, each once."""
        return sorted(set(self.side.values()))

    def forward(self, differences: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Predict all residuals.

        Args:
            differences: Side -> photo minus phase-I image at a level of the pyramid, ``(B, C, side, side)``.

        Returns:
            ``b8.conv1.features`` -> ``(B, C, S, S)``, to be added to the map of that layer; ``b4.const`` likewise, and
            ``b8.conv1.noise`` -> ``(B, S, S)``.
        """
        found: dict[str, Tensor] = {}
        for place in self.places:
            residual = self.scale * self.heads[place.replace(".", "_")](differences[self.side[place]])
            if place.endswith(NOISE):
                found[place] = residual[:, 0]
            else:
                found[place if place == CONST else f"{place}{KIND}"] = residual
        return found
