"""Numbers that others have published, to stand next to measured ones: marked as published, with their source.

They were made with other code, other machines and, for identity, other networks: a difference of a few per cent between
a published row and a measured one of the same weights is nothing unusual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One method as somebody has published it."""

    model: str
    numbers: Mapping[str, float]  # names as in a protocol; id: cosine of the network that the source names
    source: str  # key of SOURCES


# Key -> what it is, how the numbers were made.
SOURCES: Mapping[str, str] = {
    "MODEL_ZOO": "HyperInverter's MODEL_ZOO.md; faces are the 2,824 test photos of CelebA-HQ at 1024 px, churches the "
    "300 of LSUN at 256 px, KID on subsets of 100; id: CurricularFace after MTCNN",
    "SFE": "StyleFeatureEditor (arXiv 2406.10601), Table 1; CelebA-HQ test, the authors' checkpoints; seconds of one "
    "edit on a V100",
    "GANInverter": "benchmark of caopulan/GANInverter; CelebA-HQ test, 2,824 photos; LPIPS is AlexNet's by its script; "
    "PSNR is the printed one + 3.01 dB, because its formula is 10 log10(2 / MSE) on [-1, 1]; id: network not named; "
    "seconds on an RTX 3090",
}


def _rows(source: str, columns: Sequence[str], table: Mapping[str, Sequence[float | None]]) -> list[Row]:
    return [
        Row(model, {c: v for c, v in zip(columns, values, strict=True) if v is not None}, source)
        for model, values in table.items()
    ]


_ZOO = ("l2", "lpips_alex", "id", "fid", "kid", "psnr", "ms_ssim")
_SFE = ("lpips_alex", "l2", "fid", "ms_ssim", "seconds")
_GANINVERTER = ("psnr", "l2", "lpips_alex", "id", "fid", "seconds")


def _usual(psnr: float) -> float:
    """GANInverter's PSNR at the usual scale."""
    return round(psnr + 3.01, 2)


PUBLISHED: Mapping[str, Sequence[Row]] = {
    "faces": [
        *_rows(
            "MODEL_ZOO",
            _ZOO,
            {
                "W encoder (pSp)": (0.0539, 0.2145, 0.3983, 30.37, 16.47, 18.65, 0.608),
                "HyperInverter, D = 128": (0.0253, 0.1103, 0.5939, 17.37, 6.37, 21.21, 0.668),
                "HyperInverter, D = 256": (0.0243, 0.1054, 0.6013, 15.88, 5.63, 21.44, 0.673),
                "W encoder (e4e)": (0.0696, 0.2377, 0.3140, 28.22, 13.49, 17.61, 0.585),
                "HyperInverter on it, D = 256": (0.0220, 0.0933, 0.6319, 17.12, 6.67, 21.79, 0.687),
            },
        ),
        *_rows(
            "SFE",
            _SFE,
            {
                "e4e": (0.199, 0.047, 28.971, 0.625, 0.034),
                "pSp": (0.161, 0.034, 25.163, 0.651, 0.034),
                "StyleTransformer": (0.158, 0.034, 22.811, 0.656, 0.032),
                "ReStyle": (0.130, 0.028, 20.664, 0.669, 0.138),
                "Padding Inverter": (0.124, 0.023, 25.753, 0.672, 0.034),
                "HyperInverter": (0.105, 0.024, 16.822, 0.673, 0.105),
                "HyperStyle": (0.098, 0.022, 20.725, 0.700, 0.275),
                "HFGI": (0.117, 0.021, 15.692, 0.721, 0.072),
                "Feature-Style": (0.067, 0.012, 10.861, 0.758, 0.038),
                "StyleRes": (0.076, 0.013, 8.505, 0.797, 0.063),
                "PTI": (0.085, 0.008, 14.466, 0.781, 124.0),
                "StyleFeatureEditor": (0.019, 0.002, 3.535, 0.922, 0.070),
            },
        ),
        *_rows(
            "GANInverter",
            _GANINVERTER,
            {
                "W optimisation": (_usual(15.846), 0.0670, 0.1967, 0.32, 25.74, None),
                "W+ optimisation": (_usual(20.594), 0.0242, 0.1092, 0.77, 17.08, None),
                "pSp": (_usual(18.035), 0.0345, 0.1591, 0.56, 25.25, 0.041),
                "e4e": (_usual(16.662), 0.0472, 0.1974, 0.50, 28.50, 0.041),
                "ReStyle-e4e": (_usual(17.090), 0.0428, 0.1904, 0.51, 25.51, 0.150),
                "HyperStyle": (_usual(20.086), 0.0219, 0.0985, 0.74, 21.67, 0.162),
                "PTI": (_usual(24.613), 0.0082, 0.0817, 0.85, 14.28, 59.0),
                "HFGI": (_usual(20.140), 0.0210, 0.1166, 0.68, 16.07, 0.067),
                "SAM on e4e": (_usual(20.593), 0.0193, 0.1442, 0.57, 17.36, 67.0),
                "DHR on e4e": (_usual(28.166), 0.0035, 0.0438, 0.87, 6.00, 12.0),
            },
        ),
    ],
    "churches": _rows(
        "MODEL_ZOO",
        ("l2", "lpips_alex", "fid", "kid", "psnr", "ms_ssim"),
        {
            "W encoder (pSp)": (0.1277, 0.3979, 57.85, 12.73, 15.15, 0.368),
            "HyperInverter, D = 128": (0.0929, 0.2389, 47.78, 6.09, 16.60, 0.556),
            "HyperInverter, D = 256": (0.0910, 0.2226, 46.96, 6.82, 16.72, 0.576),
            "W encoder (e4e)": (0.1815, 0.4834, 52.61, 7.49, 13.59, 0.284),
            "HyperInverter on it, D = 128": (0.0951, 0.2206, 42.76, 2.67, 16.58, 0.579),
            "HyperInverter on it, D = 256": (0.0853, 0.1996, 40.68, 2.62, 17.09, 0.615),
        },
    ),
}
