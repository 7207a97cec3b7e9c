"""The GAN's losses reach the nets that they are of, and its validation figure measures what it says."""

from __future__ import annotations

import torch

from ancestral_exporter.models.base import OBJECTIVE, ImageShape
from ancestral_exporter.models.gan import GAN, GANSettings, kernel_distance

SHAPE = ImageShape(6, 5, 3, 4)


def make() -> GAN:
    torch.manual_seed(0)
    return GAN(SHAPE, GANSettings(latent_size=3, channels=4, features=8))


def some_images(count: int) -> torch.Tensor:
    levels = torch.randint(0, 4, (count, *SHAPE.hwc), generator=torch.Generator().manual_seed(1))
    return (levels * 85).to(torch.uint8)


def gradients(model: GAN, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return dict(zip(named, found, strict=True))


def test_each_loss_reaches_its_own_net_only() -> None:
    model = make()
    terms = model.training_terms(some_images(4), torch.zeros(4, dtype=torch.int64), 0.5)
    generator = gradients(model, terms["generator_loss"].sum())
    rest = gradients(model, (terms["discriminator_loss"] + terms["gradient_penalty"]).sum())
    for name in generator:
        of_generator = name.startswith("generator.")
        assert (generator[name] is not None) == of_generator, name
        # The judge's bias has no part in the gradient at an image, but in the loss.
        assert (rest[name] is not None) == (not of_generator), name
    both = gradients(model, terms[OBJECTIVE].sum())
    for name, gradient in both.items():
        expected = generator[name] if name.startswith("generator.") else rest[name]
        assert gradient is not None
        assert expected is not None
        torch.testing.assert_close(gradient, expected)


def test_images_are_levels_of_the_right_shape() -> None:
    model = make()
    images = model.draw(torch.randn(7, 3))
    assert images.shape == (7, *SHAPE.hwc)
    assert images.dtype == torch.uint8
    assert set(images.flatten().tolist()) <= {0, 85, 170, 255}
    torch.testing.assert_close(model.intensities(some_images(5)).amax(), torch.tensor(1.0))


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    """Of equal distributions the mean estimate is zero within its standard error; by hand for two points each."""
    random = torch.Generator().manual_seed(0)
    same = torch.stack([kernel_distance(*torch.randn(2, 50, 4, generator=random)) for _ in range(200)])
    assert abs(same.mean()) < 3 * same.std() / 200**0.5
    x, y = torch.randn(2, 200, 4, generator=random)
    assert kernel_distance(x, y + 1) > 1
    a, b = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [1.0]])
    # k = (ab + 1)^3: within a: k(1,0) = 1; within b: k(2,1) = 27; between: 27 + 8 + 1 + 1.
    torch.testing.assert_close(kernel_distance(a, b), torch.tensor(1.0 + 27 - 2 * (27 + 8 + 1 + 1) / 4))
