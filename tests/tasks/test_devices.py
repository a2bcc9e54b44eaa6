"""Everything on one device, found without one: forward passes of all parts with tensors of a GPU that is not there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from elsewhere import DEVICE, Watch, moved, watched
from tiny import make_generator
from tiny_tasks import _common
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from watching import make_batches

from hyperinverter import metrics
from hyperinverter.editing.directions import Direction
from hyperinverter.evaluation import editability
from hyperinverter.evaluation.editability import STRENGTHS, Editing
from hyperinverter.inversion.carrying import RULES
from hyperinverter.inversion.hyperstyle import HyperStyle
from hyperinverter.inversion.optimise import Optimiser, Projection, _NoiseMaps, drift
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.restyle import ReStyle
from hyperinverter.inversion.tuning import PivotalTuning, Tuning
from hyperinverter.judges.catalogue import SHIPPED
from hyperinverter.losses import adversarial
from hyperinverter.losses.reconstruction import IdentityLoss, PerceptualLoss, PixelLoss
from hyperinverter.losses.weighted import WeightedLoss
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.coverage import SETS, select
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.fusion import FUSIONS, ConcatFusion, Fusion
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.networks.hyperstyle import HyperStyleNetwork
from hyperinverter.networks.wplus import LatentDiscriminator, WPlusEncoder
from hyperinverter.ops.placing import placed
from hyperinverter.ops.policy import GPU, policy
from hyperinverter.tasks import muon
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.tasks.phase1 import NearW, PhaseIEncoder
from hyperinverter.tasks.phase2 import PhaseIIHyper, random_steps


@pytest.fixture
def mode() -> FakeTensorMode:
    mode = FakeTensorMode()
    if (
        torch.__version__ < "2.14"
    ):  # of the releases before, some ask the driver when a fake tensor is indexed
        with mode:
            try:
                torch.empty(1, device=DEVICE)[0]
            except RuntimeError as error:
                pytest.skip(
                    f"fake tensors of torch {torch.__version__} need a driver: {error}".splitlines()[0]
                )
    return mode


def backbone() -> TinyBackbone:
    return TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))


def built(
    fusion: type[Fusion] = ConcatFusion, coverage: str = "convs_torgb", places: tuple[str, ...] = ()
) -> HyperInverter:
    generator: Generator = make_generator(32)
    first = WInverter(generator, WEncoder(backbone(), generator.w_dim))
    kernels = select(generator.kernels(), [coverage])
    hypernet = HyperNetwork(kernels, 8, 4, fusion, extractor_channels=4)
    maps = generator.synthesis.feature_maps() | generator.synthesis.own_maps()
    sides = sorted({maps[place][1] for place in places})
    encoder = FeatureEncoder(backbone(), generator.num_ws, 8, used=hypernet.used_styles, sides=sides)
    added = FeatureResiduals(maps, places, channels=8, width=4) if places else None
    return HyperInverter(first, encoder, hypernet, added).eval()


def photos(mode: FakeTensorMode, side: int = 32, count: int = 2) -> Tensor:
    with mode:
        return torch.empty(count, 3, side, side, device=DEVICE)


TURN = Direction("turn", torch.ones(16))


def on_device(tensor: Tensor) -> bool:
    return tensor.device.type == DEVICE


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_every_fusion(mode: FakeTensorMode, fusion: type[Fusion]) -> None:
    model = moved(built(fusion), mode)
    with mode:
        assert on_device(model(photos(mode)).image)
        assert on_device(model.reconstruct(photos(mode)))  # type: ignore[operator]


@pytest.mark.parametrize("coverage", [name for name in SETS if name != "fine"])
def test_every_coverage(mode: FakeTensorMode, coverage: str) -> None:
    model = moved(built(coverage=coverage), mode)
    with mode:
        assert on_device(model(photos(mode)).image)


@pytest.mark.parametrize("eased", [1.0, 0.5])
@pytest.mark.parametrize("rule", RULES)
def test_inversion_and_edits(mode: FakeTensorMode, rule: str, eased: float) -> None:
    model = built(places=("b8.conv1", "b16.conv0", "b4.const", "b8.conv0.noise"))
    model.rule, model.edit_strength, model.edit_gain = rule, eased, 1.25  # type: ignore[assignment]
    moved(model, mode)
    with mode, watched() as watch:
        turn = turn_on(TURN)  # loaded from a file: on the host
        inversion = model.invert(photos(mode, count=1))
        power = torch.empty(1, device="cpu")
        assert on_device(model.edit(inversion, turn, 1.0))
        object.__setattr__(turn, "styles", {"b8.conv1": torch.empty(16, device="cpu")})
        assert on_device(model.edit(inversion, turn, power, strength=power))
        draw = model.prepare(inversion, 0.5)
        assert on_device(draw(torch.empty(3, 16, device=DEVICE)))
        assert on_device(model.render(inversion.w, inversion.residuals, {"coarse": 0.5, "features": 0.2}))
        shift = random_steps(model.generator, 1)
        photo = photos(mode, count=2)
        first, residuals = model.predict(photo, factored=True)
        changes = model.change_by_edit(first, residuals, first.w_image, shift)
        assert all(map(on_device, changes))
        assert on_device(model.moved_to_mirror(first, residuals, photo[-1:].flip(-1)))
    assert watch.found == []


def turn_on(direction: Direction) -> Direction:
    """Its numbers without values, still on the host: the model should bring them over."""
    return unseen(direction.name, torch.empty(direction.shift.shape, device="cpu"))


def unseen(name: str, shift: Tensor) -> Direction:
    """A direction whose numbers nobody has looked at, as its constructor does."""
    found = object.__new__(Direction)
    object.__setattr__(found, "name", name)
    object.__setattr__(found, "shift", shift)
    object.__setattr__(found, "styles", {})
    return found


@pytest.mark.parametrize("place", ["b4.conv1", "b16.conv0", "b32.conv1"])
def test_feature_residuals_of_every_size(mode: FakeTensorMode, place: str) -> None:
    model = moved(built(places=(place,)), mode)
    with mode:
        inversion = model(photos(mode, 48))  # not the generator's size
        assert set(map(on_device, inversion.residuals.values())) == {True}
        assert on_device(inversion.image)
        assert on_device(model.generator.synthesis.map_of(inversion.w, place, inversion.residuals))  # type: ignore[union-attr, operator]


def test_methods_that_look_again(mode: FakeTensorMode) -> None:
    generator = make_generator(32)
    encoder = WPlusEncoder(backbone(), generator.w_dim, generator.num_ws, "restyle", "flatten", 8)
    again = moved(ReStyle(generator, encoder, iterations=2), mode)
    network = HyperStyleNetwork(select(generator.kernels(), ["convs"]), backbone(), hidden_dim=4)
    first = WInverter(make_generator(32), WEncoder(backbone(), generator.w_dim))
    changing = moved(HyperStyle(first, network, iterations=2), mode)
    with mode:
        for model in (again, changing):
            assert on_device(model(photos(mode)).image)
            model.edit_strength = 0.5
            with watched() as watch:
                inversion = model.invert(photos(mode, 48))  # type: ignore[operator]
                assert on_device(model.edit(inversion, turn_on(TURN), 1.0))  # type: ignore[operator]
            assert watch.found == []


def test_measuring_edits(mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both look at numbers, which fake tensors do not have: one photo moves, the other is its own mirror image.
    monkeypatch.setattr(editability, "_not_zero", lambda steps: [True, False])
    monkeypatch.setattr(editability, "Direction", unseen)
    model = moved(built(places=("b8.conv1",)), mode)
    judge = moved(SHIPPED["effnet_lite0"](), mode)
    editing = object.__new__(Editing)  # its constructor looks at numbers
    editing.generator, editing.perceptual, editing.identity = model.generator, judge, None  # type: ignore[assignment]
    editing.odd, editing.kinds = model, ("plain", "odd")  # type: ignore[assignment]
    editing._drawn = {}
    editing.read, editing.spread, editing.seen = None, {}, []
    with mode, torch.no_grad():
        editing.ends = [turn_on(TURN)]
        editing.photos, editing.w = photos(mode, 32), torch.empty(2, 16, device=DEVICE)
        inversion = model.invert(editing.photos)  # type: ignore[operator]
        curve = torch.zeros(len(STRENGTHS), 3, dtype=torch.float64, device="cpu")
        rows = editing._truth(model, slice(0, 2), curve)  # type: ignore[arg-type]
        rows |= editing._flip(model, editing.photos, inversion)  # type: ignore[arg-type]
        rows |= editing._back(model, editing.photos, inversion)  # type: ignore[arg-type]
        assert rows
        assert set(map(on_device, rows.values())) == {True}


def test_noise_that_is_searched_for(mode: FakeTensorMode) -> None:
    generator = moved(make_generator(16), mode)
    with mode:
        noise = _NoiseMaps(generator, 2)  # type: ignore[arg-type]
        assert on_device(noise.roughness())
        for maps in noise.maps.values():
            maps.requires_grad_(False)
        noise.normalise()
        assert on_device(drift(torch.empty(2, 6, 16, device=DEVICE), 1.0))


@pytest.mark.parametrize("method", ["psp", "e4e"])
def test_encoders_to_w_plus(mode: FakeTensorMode, method: Any) -> None:
    generator = make_generator(32)
    encoder = WPlusEncoder(backbone(), generator.w_dim, generator.num_ws, method, "flatten", 8)
    model, judge = moved(WInverter(generator, encoder), mode), moved(LatentDiscriminator(16, 4), mode)
    with mode:
        with watched() as watch:
            inversion = model.invert(photos(mode))  # type: ignore[operator]
            assert on_device(model.edit(inversion, turn_on(TURN), 1.0))  # type: ignore[operator]
        assert watch.found == []
        w = inversion.w
        assert on_device(w)
        assert on_device(judge(w))
        assert all(map(on_device, judge.pooled(w[:, 0].detach(), w[:, 1].detach())))  # type: ignore[operator]


@pytest.mark.parametrize("label", SHIPPED)
def test_networks_that_compare_and_losses(mode: FakeTensorMode, label: str) -> None:
    judge = moved(SHIPPED[label](), mode)
    one, two = photos(mode, 64), photos(mode, 64)
    loss = IdentityLoss(judge) if judge.higher_is_closer else PerceptualLoss(judge, 0.5)  # type: ignore[arg-type]
    with mode:
        assert on_device(judge(one, two))
        total, parts = WeightedLoss({"l2": (1.0, PixelLoss()), "other": (0.5, loss)})(one, two)
        assert on_device(total)
        assert all(map(on_device, parts.values()))


def test_plain_measures_and_the_adversarial_losses(mode: FakeTensorMode) -> None:
    judge = moved(Discriminator(make_generator(32).config), mode)
    one, two = photos(mode), photos(mode)
    with mode:
        for measure in (metrics.l2, metrics.psnr, metrics.inner_ssim):
            assert on_device(measure(one, two))
        real, fake = judge(one), judge(two)
        assert on_device(adversarial.discriminator_loss(real, fake) + adversarial.generator_loss(fake))


@pytest.mark.parametrize(
    "make", [lambda p: muon.Muon(p, lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)], ids=["muon", "adamw"]
)
def test_optimizers_step(mode: FakeTensorMode, make: Callable[..., torch.optim.Optimizer]) -> None:
    model = moved(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 4)), mode)
    with mode:
        optimizer = make([*model.parameters()])
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        state = [
            v for each in optimizer.state.values() for v in each.values() if isinstance(v, Tensor) and v.ndim
        ]
        assert all(map(on_device, state))


def test_autocast_in_bfloat16(mode: FakeTensorMode) -> None:
    model = moved(built(), mode)
    with mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of autocast, which looks for a real GPU
        with torch.autocast(DEVICE, torch.bfloat16):
            assert on_device(model(photos(mode)).image)


def test_what_is_left_on_the_host_is_caught(mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    model = moved(built(), mode)
    encode = model.w_inverter.encode  # type: ignore[union-attr]
    monkeypatch.setattr(model.w_inverter, "encode", lambda photo: encode(photo).cpu())  # a planted fault
    with mode, pytest.raises(Exception, match="device"):
        model(photos(mode))
    monkeypatch.undo()
    generator = model.generator  # type: ignore[union-attr]
    with mode:
        generator.mapping.w_avg = torch.empty(16, device="cpu")  # a constant that no ``to`` reaches
        with pytest.raises(Exception, match="device"):
            model(photos(mode))


# Waiting -----------------------------------------------------------------------------------------------------


# Adam counts its steps in tensors on the host and looks at them there; SGD keeps none.
SGD = partial(torch.optim.SGD, lr=1e-3)


def step_of(task: PhaseTask, make_trainer: Callable[..., Any], side: int = 16) -> list[str]:
    """What would make the host wait in a training step, outside of Lightning."""
    found: list[str] = []
    plain = task.training_step

    def training_step(batch: Any, batch_idx: int) -> Tensor:
        with watched() as watch:
            loss = plain(batch, batch_idx)
            task.on_train_batch_start(batch, batch_idx)
        found.extend(watch.found)
        return loss

    task.training_step = training_step  # type: ignore[method-assign]
    make_trainer().fit(task, make_batches(2, 2, side=side))
    return found


def test_a_training_step_of_phase_one_does_not_wait(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Any]
) -> None:
    assert step_of(make_phase1(), make_trainer) == []


@pytest.mark.parametrize(
    "options", [{}, {"edit": 1.0}, {"accumulate": 2}], ids=["plain", "edit", "accumulated"]
)
def test_a_training_step_of_phase_two_does_not_wait(
    options: dict[str, Any], make_phase2: Callable[..., PhaseIIHyper], make_trainer: Callable[..., Any]
) -> None:
    assert step_of(make_phase2(**options, optimizer=SGD), make_trainer) == []


def test_steps_of_features_and_of_hyperstyle_do_not_wait(make_trainer: Callable[..., Any]) -> None:
    model = built(places=("b8.conv1", "b16.conv0"))
    model.rule, model.edit_strength = "warp", 0.5
    network = HyperStyleNetwork(select(model.generator.kernels(), ["convs"]), backbone(), hidden_dim=4)
    first = WInverter(model.generator, WEncoder(backbone(), model.generator.w_dim))
    for inverter, options in ((model, {"edit": 1.0}), (HyperStyle(first, network, iterations=2), {})):
        task = PhaseIIHyper(
            inverter, **{**_common(), "metrics": metrics.MetricSuite(32), "optimizer": SGD}, **options
        )
        assert step_of(task, make_trainer, side=32) == []


def test_a_step_with_the_discriminator_does_not_wait(
    make_phase2: Callable[..., PhaseIIHyper], make_trainer: Callable[..., Any], generator: Generator
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config), adv=0.1, r1_every=1, optimizer=SGD)
    assert step_of(task, make_trainer) == []


@pytest.mark.parametrize("method", ["psp", "e4e", "restyle"])
def test_a_training_step_of_a_rival_does_not_wait(
    method: Any, make_trainer: Callable[..., Any], generator: Generator
) -> None:
    assert step_of(rival(method, generator), make_trainer) == []


def rival(method: Any, generator: Generator) -> PhaseIEncoder:
    encoder = WPlusEncoder(backbone(), generator.w_dim, generator.num_ws, method, "flatten", 8)
    inverter = WInverter(generator, encoder)
    if method == "restyle":
        inverter = ReStyle(generator, encoder, iterations=2)
    near_w = NearW(first=0, deltas=4, r1_every=1) if method == "e4e" else None
    task = PhaseIEncoder(inverter, **{**_common(), "optimizer": SGD}, near_w=near_w)
    plain = task.configure_optimizers

    def without_adam() -> Any:  # which looks at its count of steps, on the host
        made = plain()
        if isinstance(made, list):
            made[1] = SGD(made[1].param_groups[0]["params"])
            made[1].param_groups[0]["initial_lr"] = 1e-3
        return made

    task.configure_optimizers = without_adam  # type: ignore[method-assign]
    return task


# Exact repeats -----------------------------------------------------------------------------------------------

# ``torch.use_deterministic_algorithms`` refuses these on a GPU (its documentation); a bilinear gradient it replaces.
REFUSED = {
    *(
        "_adaptive_avg_pool2d_backward",
        "adaptive_max_pool2d_backward",
        "avg_pool3d_backward",
        "cumsum",
        "put_",
    ),
    *(
        "upsample_bicubic2d_backward",
        "_upsample_bilinear2d_aa_backward",
        "upsample_linear1d_backward",
        "kthvalue",
    ),
    *("reflection_pad2d_backward", "replication_pad2d_backward", "grid_sampler_2d_backward", "median.dim"),
    *(
        "histc",
        "bincount",
        "nll_loss2d_forward",
        "embedding_bag",
        "max_unpool2d",
        "fractional_max_pool2d_backward",
    ),
}


class Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.seen |= {function.overloadpacket.__name__, str(function).removeprefix("aten.")}
        return function(*given, **(named or {}))


@pytest.mark.parametrize("side", [32, 512])
@pytest.mark.parametrize("label", SHIPPED)
def test_gradients_of_losses_can_repeat_exactly_on_a_gpu(label: str, side: int) -> None:
    judge = SHIPPED[label]()
    term = IdentityLoss(judge) if judge.higher_is_closer else PerceptualLoss(judge)  # type: ignore[arg-type]
    loss = WeightedLoss({"l2": (1.0, PixelLoss()), "other": (0.5, term)})
    image = (torch.rand(1, 3, side, side) * 2 - 1).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        with policy(GPU), Names() as names:
            total, _ = loss(image, image.detach().flip(-1))
            total.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert "convolution_backward" in names.seen
    assert names.seen & REFUSED == set()


@pytest.mark.parametrize("options", [{"edit": 1.0}, {"accumulate": 2}])
def test_a_training_step_can_repeat_exactly_on_a_gpu(
    options: dict[str, Any], make_phase2: Callable[..., PhaseIIHyper], generator: Generator
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config), adv=0.1, **options)
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    with policy(GPU), Names() as names:
        done = task.forward_pass_with_discriminator(photo)
        done.total.backward()
        (task.discriminator_pass(photo, done.image.detach()) + task.penalty_pass(photo)).backward()
    assert names.seen & REFUSED == set()


def test_a_planted_wait_is_caught(
    make_phase1: Callable[..., PhaseTask], make_trainer: Callable[..., Any]
) -> None:
    task = make_phase1()
    plain = task.forward_pass
    task.forward_pass = lambda photo: (float(photo.mean()), plain(photo))[1]  # type: ignore[method-assign]
    assert set(step_of(task, make_trainer)) == {"item(), float(), int() or bool() of a tensor"}


def test_searches_stay_on_their_device(mode: FakeTensorMode) -> None:
    class Plain:
        label = "plain"

        def embed(self, image: Tensor) -> list[Tensor]:
            return [image]

        def compare(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
            return (a[0] - b[0]).square().mean((1, 2, 3))

    generator = make_generator(16)
    search = Optimiser(generator, Plain(), Projection(steps=1, samples=4))
    tuned = PivotalTuning(search, Plain(), Tuning(steps=0))
    moved(tuned, mode)
    with mode, torch.no_grad():
        w = torch.empty(1, 16, device=DEVICE)
        assert on_device(search._draw(w, None))
        assert tuned.tune(photos(mode, 16, 1), w, {}) == {}


def test_the_watch_notes_masks_and_copies() -> None:
    with Watch() as watch:
        x = torch.ones(3)
        x[x > 0]
        x.to("cpu", torch.float64)
        torch.nonzero(x)
    assert set(watch.found) == {"a mask as an index", "nonzero()"} or "a copy to the host" in watch.found


def test_the_watch_notes_copies_from_the_host(mode: FakeTensorMode) -> None:
    with mode, watched() as watch:
        there, here = torch.empty(3, device=DEVICE), torch.empty(3, device="cpu")
        placed(here, there)
        assert watch.found == []
        here.to(there)
    assert watch.found == ["a copy from the host"]
