"""Identity: cosines of descriptors of faces, and of general features where there are no faces."""

import math
from pathlib import Path

import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hyperinverter.checkpoints.reading import read_foreign_weights, with_counters
from hyperinverter.judges.base import Embedding, Judge
from hyperinverter.judges.faces import CROP52, Crop, FaceDescriptor, resize
from hyperinverter.networks.backbones import IRSE50
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.ops.policy import fast_layout
from hyperinverter.ops.resample import shrink

COMPARED_SIZE = 256  # side at which the paper compares images, whatever the generator draws


class IdentityJudge(Judge):
    """Cosine of two descriptors, in [-1, 1]; 1 is the same face."""

    higher_is_closer = True

    def descriptor(self, image: Tensor) -> Tensor:
        """Return the vectors, ``(B, N)``, whose angle is measured."""
        raise NotImplementedError

    def _embed(self, image: Tensor) -> Embedding:
        return [F.normalize(self.descriptor(image), dim=1)]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return (a[0] * b[0]).sum(dim=1)


class DescriptorIdentity(IdentityJudge):
    """Centred cosine of dlib's face descriptor on the framing of the digiface domain.

    All descriptors share a large common part (different faces have a plain cosine of 0.89), so their mean
    over the domain is subtracted first. Then different faces score 0.00 +- 0.18, the same face under mild
    changes 0.77 to 0.99. Small changes of the pixels can please this network without any likeness: where it
    also was the loss, say so next to the number.
    """

    label = "id_descriptor"

    def __init__(self, crop: Crop = CROP52) -> None:
        super().__init__()
        self.net = FaceDescriptor(crop)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        mean = self.net.stats.get_buffer("mean_crop52")
        return self.net(image) - mean


# The part of a 256-pixel FFHQ-aligned photo that HyperInverter shows its identity network:
# rows 35 to 222 and columns 32 to 219.
FFHQ_FACE = Crop(35 / 256, 223 / 256, 32 / 256, 220 / 256)


class FaceNetIdentity(IdentityJudge):
    """Cosine of facenet-pytorch's InceptionResnetV1 (VGGFace2) on a fixed crop of aligned photos.

    Args:
        path: The weights, see ``checkpoints.registry``; the classifier in the file (``logits``) is ignored.
        crop: Where the face is; a fixed box, because a detector would stop the gradient.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_facenet"
    size = 160

    def __init__(self, path: str | Path, crop: Crop = FFHQ_FACE) -> None:
        super().__init__()
        self.crop = crop
        weights = read_foreign_weights(path, self.label, "conv2d_1a.conv.weight")
        with torch.device("meta"):
            self.net = InceptionResnetV1(pretrained=None)
        found = {name: t for name, t in weights.items() if not name.startswith("logits.")}
        load_strictly(self.net, with_counters(self.net, found), path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        face = resize(self.crop.cut(image), self.size)
        return self.net(face * (127.5 / 128))  # trained on (v - 127.5) / 128


class DetectedFaceNetIdentity(FaceNetIdentity):
    """The same network on the face that MTCNN finds in each of both images: a score, not a loss.

    Detection is done as for the network's training: the largest face, its box as it is, resized to 160 pixels. Images
    below 256 pixels are enlarged to 256 first. Where one image has no face, the cosine is NaN.

    Args:
        path: The weights, see ``checkpoints.registry``.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_facenet_mtcnn"
    least_side = 256

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.detector = MTCNN(image_size=self.size, margin=0)
        self.freeze()

    @torch.no_grad()
    def descriptor(self, image: Tensor) -> Tensor:
        found = torch.full((len(image), 512), math.nan, device=image.device)
        self.detector.device = image.device  # where it makes its own tensors
        if image.shape[-1] < self.least_side:
            image = resize(image, self.least_side)
        pixels = image.add(1).mul(127.5).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
        faces = [
            self.detector(Image.fromarray(one)) for one in pixels
        ]  # one by one: a batch needs a face in each
        seen = [i for i, face in enumerate(faces) if face is not None]
        if seen:
            found[seen] = self.net(torch.stack([faces[i] for i in seen]).to(image))
        return found


class FaceRecognition(IRSE50):
    """IR-SE-50 with the head it was trained with: faces ``(B, 3, 112, 112)`` in [-1, 1] -> descriptors ``(B, 512)``.

    Deng et al. 2019 (ArcFace); tensor names of ``model_ir_se50.pth``.
    """

    input_size = 112

    def __init__(self) -> None:
        super().__init__()
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )

    def descriptor(self, face: Tensor) -> Tensor:
        """Describe faces; the length of a descriptor means nothing."""
        return self.output_layer(self(face)[2])


class ArcFaceIdentity(IdentityJudge):
    """Cosine of ArcFace descriptors (IR-SE-50) on a fixed crop: the identity loss of HyperInverter's faces.

    Images larger than 256 pixels are average-pooled to 256 first, the crop to 112, as in the authors' training.

    Args:
        path: ``model_ir_se50.pth``, see ``checkpoints.registry``.
        crop: Where the face is; rows 35 to 222 and columns 32 to 219 of 256 in FFHQ's alignment.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_arcface"

    def __init__(self, path: str | Path, crop: Crop = FFHQ_FACE) -> None:
        super().__init__()
        self.crop = crop
        weights = read_foreign_weights(path, self.label, "input_layer.0.weight")
        with torch.device("meta"):
            self.net = FaceRecognition()
        load_strictly(self.net, with_counters(self.net, weights), path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        face = shrink(self.crop.cut(_compared(image)), FaceRecognition.input_size)
        return self.net.descriptor(fast_layout(face))


class MoCoSimilarity(IdentityJudge):
    """Cosine of MoCo-v2 features (ResNet-50, 800 epochs): stands for identity where there are no faces.

    Tov et al. 2021 (e4e) and HyperInverter's churches: nearest-neighbour resize to 224, no ImageNet normalisation,
    the 2048 averaged features before the classifier.

    Args:
        path: ``moco_v2_800ep_pretrain.pt`` or ``.pth.tar``, see ``checkpoints.registry``; its projection head is
            ignored.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_moco"
    size = 224

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        weights = read_foreign_weights(path, self.label, "conv1.weight", ("encoder_q",))
        with torch.device("meta"):
            self.net = models.resnet50(weights=None)
        self.net.fc = nn.Identity()
        found = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
        load_strictly(self.net, with_counters(self.net, found), path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        return self.net(fast_layout(F.interpolate(_compared(image), size=(self.size, self.size))))


def _compared(image: Tensor) -> Tensor:
    """Images at the size the paper compares them at; smaller ones as they are."""
    return shrink(image, COMPARED_SIZE) if image.shape[-1] > COMPARED_SIZE else image
