"""Every registered architecture, at 16 px and with its own defaults: a new GAN is tested with no new test."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.registry import create, get, list_architectures

from .walk import set_trainable, update

SIZE = 16
N = 4


def build(name: str, channels: int = 3, **options) -> Architecture:
    torch.manual_seed(0)
    return create(name, image_size=SIZE, channels=channels, **options)


def batch_for(architecture: Architecture, fields: tuple[str, ...]) -> Batch:
    """Random values for ``fields`` at the shapes that Batch documents."""
    channels = architecture.config.channels

    def draw(field: str) -> torch.Tensor:
        if field in ("image", "source"):
            return torch.rand(N, channels, SIZE, SIZE) * 2 - 1
        if field == "label":
            return torch.randint(0, architecture.config.num_classes, (N,))
        raise NotImplementedError(f"say here what a {field} looks like: the first architecture that needs one")

    return Batch(**{field: draw(field) for field in fields})


@pytest.fixture(params=list_architectures())
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_builds_and_generates_at_16_px(name, channels):
    architecture = build(name, channels)
    assert architecture.name == name
    assert (architecture.config.image_size, architecture.config.channels) == (SIZE, channels)
    if not architecture.generators:
        return
    images = architecture.generate(batch_for(architecture, architecture.conditions or ("image",)))
    assert images.shape == (N, channels, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    if not architecture.conditions:
        assert architecture.sample(2).shape == (2, channels, SIZE, SIZE)
        assert architecture.sample(0).shape == (0, channels, SIZE, SIZE)


def test_builds_with_defaults_alone(name):
    cls = get(name)
    config = cls.Config()
    assert dataclasses.asdict(cls.Config(**dataclasses.asdict(config))) == dataclasses.asdict(config)
    assert set(cls.needs) | set(cls.conditions) <= {f.name for f in dataclasses.fields(Batch)}


def test_every_option_has_one_line_of_help(name):
    for field in dataclasses.fields(get(name).Config):
        help_text = field.metadata.get("help", "")
        assert help_text and "\n" not in help_text, f"{name}.{field.name} has no line of help"


def test_every_parameter_of_each_phase_gets_a_gradient(name):
    architecture = build(name)
    batch = batch_for(architecture, architecture.needs)
    names = {id(p): n for n, p in architecture.named_parameters()}
    trained = set()
    for stage in architecture.stages():
        for phase in stage.phases:
            set_trainable(architecture, phase)
            terms = phase.loss(batch, 0)
            driven = [term for term in terms.values() if term.requires_grad]
            assert driven, f"{phase.name} drives nothing down"
            assert all(term.dim() == 0 and torch.isfinite(term) for term in terms.values()), terms
            sum(driven).backward()
            ids = {id(p) for p in phase.parameters}
            for p in architecture.parameters():
                if id(p) in ids:
                    assert p.grad is not None, f"no gradient for {names[id(p)]} in phase {phase.name}"
                    assert torch.isfinite(p.grad).all(), f"gradient of {names[id(p)]} in phase {phase.name}"
                else:
                    assert p.grad is None, f"{names[id(p)]} collects gradients in phase {phase.name}"
            architecture.zero_grad()
            trained |= ids
    assert trained == set(names), f"never trained: {[n for i, n in names.items() if i not in trained]}"


def test_every_phase_updates_its_own_parameters_only(name):
    architecture = build(name)
    batch = batch_for(architecture, architecture.needs)
    for stage in architecture.stages():
        assert len({phase.name for phase in stage.phases}) == len(stage.phases), "phases of a stage have own names"
        for phase in stage.phases:
            before = {n: p.detach().clone() for n, p in architecture.named_parameters()}
            set_trainable(architecture, phase)
            update(phase, phase.optimizer(phase.parameters), batch, step=0)
            ids = {id(p) for p in phase.parameters}
            moved = {n for n, p in architecture.named_parameters() if not torch.equal(p, before[n])}
            own = {n for n, p in architecture.named_parameters() if id(p) in ids}
            assert moved and moved <= own, f"{phase.name} moved {moved - own}"


def test_state_dict_round_trip(name):
    first = build(name)
    torch.manual_seed(7)
    second = create(name, image_size=SIZE)
    assert second.load_state_dict(first.state_dict()) is not None
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    if not first.conditions and first.generators:
        assert torch.equal(*(sample_with_seed(model, 3) for model in (first, second)))


def test_deepcopy_is_apart_and_equal(name):
    first = build(name)
    second = copy.deepcopy(first)
    assert second.config == first.config
    batch = batch_for(first, first.needs)
    for phase in second.stages()[0].phases:  # phases of the copy belong to the copy
        set_trainable(second, phase)
        update(phase, phase.optimizer(phase.parameters), batch, step=0)
    fresh = build(name)
    for (key, a), b in zip(first.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), f"training the copy moved {key} of the original"


@pytest.mark.parametrize("name", [name for name in list_architectures() if get(name).generators])
def test_images_depend_on_the_seed_alone(name):
    architecture = build(name)
    batch = batch_for(architecture, architecture.conditions) if architecture.conditions else None
    state = copy.deepcopy(architecture.state_dict())
    first, again, other = (sample_with_seed(architecture, seed, batch) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert architecture.training, "the mode is put back"
    for key, value in architecture.state_dict().items():
        assert torch.equal(value, state[key]), f"drawing images changed {key}"


def test_sample_refuses_what_is_no_count(name):
    for wrong in (-1, 2.0, "3", True):
        with pytest.raises((ValueError, TypeError), match="takes a whole number of samples|no images from noise"):
            build(name).sample(wrong)


def test_wrong_latent_and_wrong_image_are_named(name):
    architecture = build(name)
    if hasattr(architecture.config, "z_dim") and not architecture.conditions:
        with pytest.raises(ValueError, match=r"batch.latent takes shape \(N, \d+\), got \(2, 3\)"):
            architecture.generate(Batch(latent=torch.zeros(2, 3)))
    if "image" in architecture.needs:
        phase = architecture.stages()[0].phases[0]
        for shape in [(N, 2, SIZE, SIZE), (N, 3, SIZE, SIZE + 1), (N, SIZE, SIZE, 3)]:
            batch = batch_for(architecture, architecture.needs).replace(image=torch.zeros(shape))
            with pytest.raises(ValueError, match=r"batch.image takes shape \(N, 3, 16, 16\)"):
                phase.loss(batch, 0)


def test_config_errors(name):
    with pytest.raises(TypeError, match=f"{name} has no option 'image_sise'; did you mean 'image_size'"):
        create(name, image_sise=16)
    with pytest.raises(TypeError, match=r"image_size takes a whole number, got '64' \(str\)"):
        create(name, image_size="64")
    with pytest.raises(ValueError, match="image_size takes .* got -16"):
        create(name, image_size=-16)
    with pytest.raises(ValueError, match="channels takes .* got 0"):
        create(name, channels=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        get(name).Config().image_size = 3


def test_fused_is_the_same_model(name):
    # a direction found by differences, as VAT's, multiplies rounding: in float32 two right answers lie apart
    dtype = torch.float64 if name == "vat" else torch.float32
    plain, fused = build(name).to(dtype), build(name, fuse=True).to(dtype)
    assert list(plain.state_dict()) == list(fused.state_dict())
    batch = batch_for(plain, plain.needs).to(dtype)
    for stage, fused_stage in zip(plain.stages(), fused.stages(), strict=True):
        for phase, fused_phase in zip(stage.phases, fused_stage.phases, strict=True):
            grads = []
            for model, p in ((plain, phase), (fused, fused_phase)):
                set_trainable(model, p)
                model.zero_grad()
                torch.manual_seed(1)
                sum(term for term in p.loss(batch, 0).values() if term.requires_grad).backward()
                grads.append(torch.cat([q.grad.flatten() for q in p.parameters]))
            error = (grads[0] - grads[1]).norm() / grads[0].norm()
            assert error < 1e-4, f"gradients of phase {phase.name} differ by {error:.1e}"


def sample_with_seed(architecture: Architecture, seed: int, batch: Batch | None = None) -> torch.Tensor:
    """Images from noise alone, or under the conditions of ``batch``."""
    torch.manual_seed(seed)
    if batch is None:
        return architecture.sample(2)
    architecture.eval()
    with torch.no_grad():
        images = architecture.generate(batch)
    architecture.train()
    return images
