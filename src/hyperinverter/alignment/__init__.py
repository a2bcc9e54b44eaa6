"""Any photo -> an aligned square -> back into the photo. See README.md in this folder.

from hyperinverter.alignment import align, paste

found = align("me.jpg", 256)
face = found.face                                   # UserError if there is none
edited = ...                                        # a PIL image of 256 x 256
paste("me.jpg", edited, face.crop).image.save("me.pasted.png")
"""

from hyperinverter.alignment.align import STATUSES, AlignedFace, Alignment, align
from hyperinverter.alignment.geometry import FRAMINGS, Crop, Framing, framing_of
from hyperinverter.alignment.paste import Edit, Pasted, paste, paste_all

__all__ = [
    "FRAMINGS",
    "STATUSES",
    "AlignedFace",
    "Alignment",
    "Crop",
    "Edit",
    "Framing",
    "Pasted",
    "align",
    "framing_of",
    "paste",
    "paste_all",
]
