"""Judges say what their originals say, in two steps or one, and never learn."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import models

from hyperinverter.checkpoints.reading import read_packaged
from hyperinverter.contracts import UserError
from hyperinverter.judges.base import Judge
from hyperinverter.judges.identity import FFHQ_FACE, DescriptorIdentity, FaceNetIdentity
from hyperinverter.judges.perceptual import LPIPS, STLPIPS, EffNetPerceptual, blur_down, unit_length

GOLDEN = Path(__file__).parents[1] / "golden"
PACKAGED = [EffNetPerceptual, STLPIPS, DescriptorIdentity]


@pytest.fixture(scope="module")
def photo() -> Tensor:
    faces = np.load(GOLDEN / "face_golden.npz")["faces64"]
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / "judges_golden.npz").items()}


@pytest.fixture(scope="module")
def alexnet_file(module_folder: Path) -> Path:
    """A file like torchvision's, with random convolutions and a classifier too small to matter."""
    path = module_folder / "alexnet.pth"
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = models.alexnet(weights=None).state_dict()
    state = {
        name: torch.randn(t.shape) * (0.5 / t[0].numel() ** 0.5 if t.ndim > 1 else 0.1)
        for name, t in shapes.items()
        if name.startswith("features.")
    }
    torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, path)
    return path


@pytest.fixture(scope="module")
def facenet(module_folder: Path) -> tuple[Path, nn.Module]:
    """A file like facenet-pytorch's, with a classifier, and the network it was saved from."""
    path = module_folder / "facenet.pt"
    torch.manual_seed(0)
    net = InceptionResnetV1(pretrained=None).eval()
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({**state, "logits.weight": torch.zeros(9, 512), "logits.bias": torch.zeros(9)}, path)
    return path, net


# What each says -----------------------------------------------------------------------------------------


def test_stlpips_equals_its_package(photo: Tensor, golden: dict[str, Tensor]) -> None:
    judge = STLPIPS()
    # golden values come from float32 weights, ours are stored as float16
    assert_close(judge(photo, photo.roll(1, 0)), golden["stlpips_next"], rtol=1e-3, atol=1e-5)
    assert_close(judge(photo, photo.roll(1, 3)), golden["stlpips_shifted"], rtol=5e-3, atol=1e-5)
    larger = F.interpolate(photo[:3], size=96, mode="bilinear")
    others = F.interpolate(photo.roll(1, 0)[:3], size=96, mode="bilinear")
    assert_close(judge(larger, others), golden["stlpips_next96"][:3], rtol=1e-3, atol=1e-5)


def test_stlpips_refuses_images_its_padding_cannot_take() -> None:
    with pytest.raises(ValueError, match="needs images of 32 pixels or more"):
        STLPIPS().embed(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("sides", [(64, 64), (33, 32), (40, 41)])
def test_stlpips_for_reports_is_the_same_up_to_rounding(sides: tuple[int, int]) -> None:
    plain, quick = STLPIPS(), STLPIPS().for_reports()
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 3, *sides) * 2 - 1
    for found, wanted in zip(quick.embed(a), plain.embed(a), strict=True):
        assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert_close(quick(a, b), plain(a, b), rtol=1e-5, atol=1e-7)
    assert_close(quick(a, a.flip(0)), plain(a, a.flip(0)), rtol=1e-5, atol=1e-7)
    assert quick.state_dict().keys() == plain.state_dict().keys()


def test_stlpips_for_reports_compares_pairs_as_they_stand_and_in_one_pass(photo: Tensor) -> None:
    judge = STLPIPS().for_reports()
    seen: list[int] = []
    judge.net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = judge(photo[:3], photo[3:6])
    assert seen == [6]
    one_by_one = torch.cat([judge(photo[k : k + 1], photo[3 + k : 4 + k]) for k in range(3)])
    assert_close(found, one_by_one, rtol=1e-5, atol=1e-7)
    assert judge(photo[:2], photo[:2]).abs().max() == 0
    assert_close(judge(photo[:2], photo[2:3]), STLPIPS()(photo[:2], photo[2:3]), rtol=1e-5, atol=1e-7)


def test_blur_down_is_a_triangle_filter_after_reflection() -> None:
    x = torch.randn(2, 4, 9, 10, dtype=torch.float64)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = (line[:, None] * line / 16).expand(4, 1, 3, 3)
    want = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=4)
    assert_close(blur_down(x), want)


def test_lpips_equals_the_lpips_package(alexnet_file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package asks torchvision with a deprecated argument
        import lpips

        reference = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    state = torch.load(alexnet_file, weights_only=True)
    for index, layer in enumerate((0, 3, 6, 8, 10), start=1):
        slice_ = getattr(reference.net, f"slice{index}")
        slice_.get_submodule(str(layer)).load_state_dict(
            {part: state[f"features.{layer}.{part}"] for part in ("weight", "bias")}
        )
    torch.manual_seed(1)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        want = reference(a, b).flatten()
    assert want.min() > 1e-3
    assert_close(LPIPS(alexnet_file)(a, b), want, rtol=1e-4, atol=1e-6)


def test_lpips_vgg_taps_five_relus_before_each_pooling(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = models.vgg16(weights=None).state_dict()
    state = {k: torch.randn(t.shape) * 0.02 for k, t in shapes.items() if k.startswith("features.")}
    torch.save(state, tmp_path / "vgg.pth")
    judge = LPIPS(tmp_path / "vgg.pth", net="vgg")
    assert judge.label == "lpips_vgg"
    taps = judge.features(torch.randn(1, 3, 32, 32))
    assert [tuple(t.shape[1:3]) for t in taps] == [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
    assert all(t.min() >= 0 for t in taps)


def test_effnet_distance_is_a_sixteenth_of_the_squared_differences_of_unit_features(photo: Tensor) -> None:
    judge = EffNetPerceptual()
    a, b = photo[:2], photo[2:4]
    want = torch.zeros(2)
    for x, y in zip(judge.net(a), judge.net(b), strict=True):
        cosine = F.cosine_similarity(x, y, dim=1)
        want += (2 - 2 * cosine).mean(dim=(1, 2))  # |x - y|^2 of unit vectors
    assert_close(judge(a, b), want / 16, rtol=1e-4, atol=1e-6)


def test_effnet_enlarges_on_request(photo: Tensor) -> None:
    doubled = F.interpolate(photo[:2], scale_factor=2, mode="bilinear")
    plain, enlarging = EffNetPerceptual(), EffNetPerceptual(enlarge=2)
    assert_close(enlarging(photo[:1], photo[1:2]), plain(doubled[:1], doubled[1:2]))
    with pytest.raises(ValueError, match="enlarge must be 1 or more"):
        EffNetPerceptual(enlarge=0.5)


def test_descriptor_similarity_is_the_centred_cosine(photo: Tensor) -> None:
    judge = DescriptorIdentity()
    golden = torch.from_numpy(np.load(GOLDEN / "face_golden.npz")["torch_descriptor_crop52"])
    mean = read_packaged("face_descriptor")["stats.mean_crop52"]
    want = F.cosine_similarity(golden - mean, golden.roll(1, 0) - mean, dim=1)
    assert_close(judge(photo, photo.roll(1, 0)), want, rtol=0, atol=1e-3)
    raw = F.cosine_similarity(golden, golden.roll(1, 0), dim=1)
    assert (want - raw).abs().min() > 0.1  # the test would notice a missing centre


def test_facenet_equals_its_package_on_the_fixed_crop(facenet: tuple[Path, nn.Module]) -> None:
    path, net = facenet
    judge = FaceNetIdentity(path)
    torch.manual_seed(2)
    a, b = torch.rand(2, 1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        faces = [
            F.interpolate(x[..., 35:223, 32:220], size=160, mode="bilinear", antialias=True) for x in (a, b)
        ]
        # facenet-pytorch's own standardisation: (v - 127.5) / 128 for v in 0..255
        x, y = (net(((face + 1) * 127.5 - 127.5) / 128) for face in faces)
    assert_close(judge(a, b), (x * y).sum(1), rtol=1e-4, atol=1e-4)
    assert FFHQ_FACE.cut(a).shape == (1, 3, 188, 188)


# What all promise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_two_steps_equal_one_and_batches_equal_single_images(make: type[Judge], photo: Tensor) -> None:
    judge = make()
    a, b = photo[:2], photo[3:5]
    together = judge(a, b)
    assert together.shape == (2,)
    assert_close(judge.compare(judge.embed(a), judge.embed(b)), together)
    assert_close(torch.cat([judge(a[:1], b[:1]), judge(a[1:], b[1:])]), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_an_image_is_closest_to_itself(make: type[Judge], photo: Tensor) -> None:
    judge = make()
    a = photo[:2]
    same, near, far = judge(a, a), judge(a, a.roll(1, 3)), judge(a, photo[2:4])
    if judge.higher_is_closer:
        assert_close(same, torch.ones(2), rtol=0, atol=1e-5)
        assert (near < same).all()
        assert (far < near).all()
    else:
        assert_close(same, torch.zeros(2))
        assert (near > same).all()
        assert (far > near).all()


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_gradient_reaches_the_image_and_no_weight(make: type[Judge], photo: Tensor) -> None:
    judge = make().train()
    assert not any(m.training for m in judge.modules())
    image = photo[:1].clone().requires_grad_()
    value = judge(image, photo[1:2]).sum()
    (gradient,) = torch.autograd.grad(value, image)
    assert gradient.isfinite().all()
    # a step along the gradient brings the faces apart as far as the gradient says
    step = 0.02 * gradient / gradient.norm()
    with torch.no_grad():
        rise = judge(image + step, photo[1:2]).sum() - judge(image - step, photo[1:2]).sum()
    assert_close(rise, 0.04 * gradient.norm(), rtol=0.1, atol=1e-5)
    assert not any(p.requires_grad for p in judge.parameters())


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_a_black_image_has_a_finite_gradient(make: type[Judge], photo: Tensor) -> None:
    image = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    make()(image, photo[:1]).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_zero_features_have_gradient_zero() -> None:
    feature = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit_length(feature).sum().backward()
    assert feature.grad is not None
    assert feature.grad.isfinite().all()


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_autocast_changes_nothing(make: type[Judge], photo: Tensor) -> None:
    judge = make()
    plain = judge(photo[:1], photo[1:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = judge(photo[:1], photo[1:2])
    assert mixed.dtype == torch.float32
    assert_close(mixed, plain)


@pytest.mark.parametrize("make", PACKAGED, ids=lambda c: c.label)
def test_construction_draws_no_random_numbers(make: type[Judge]) -> None:
    before = torch.random.get_rng_state()
    make()
    assert_close(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 64).byte()]
)
def test_other_things_than_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="judges float images"):
        EffNetPerceptual().embed(images)


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "label"), [(LPIPS, "lpips_alex"), (FaceNetIdentity, "id_facenet")])
def test_a_missing_file_is_named_with_its_source(make: Callable, label: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=rf"{label} needs .*gone\.pth: fetch it with `python -m .* {label}`, or download https://",
    ):
        make(tmp_path / "gone.pth")


def test_a_damaged_file_is_named_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"cut short.*; lpips_alex needs alexnet.* from https://"):
        LPIPS(path)


def test_a_file_of_another_network_is_refused(tmp_path: Path, alexnet_file: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not hold the weights of Sequential"):
        LPIPS(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"does not hold the weights of InceptionResnetV1"):
        FaceNetIdentity(alexnet_file)
    with pytest.raises(ValueError, match="net must be one of alex, vgg"):
        LPIPS(alexnet_file, net="squeeze")


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Harmful:
        def __reduce__(self) -> tuple:
            return (Path.touch, (marker,))

    torch.save({"features.0.weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(UserError, match="holds no tensor called features.0.weight"):
        LPIPS(tmp_path / "harmful.pth")
    assert not marker.exists()
