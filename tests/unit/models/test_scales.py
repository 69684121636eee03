"""A tower that lays the features of several scales side by side in the channels of one token."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool2d
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import vision_flops_per_crop
from dragonfly_lit.models.scales import ScalesTower
from dragonfly_lit.models.tiny import tiny_config, tiny_model

LOW = {"medium": False, "high": False}
SCALES = {"_target_": "dragonfly_lit.models.scales.ScalesTower", "scales": [1, 2, 4], "feature_size": 32}


def scaled(**keys):
    return tiny_model(zoom=LOW, vision={"image_size": 128}, vision_tower=SCALES | keys)


@pytest.fixture(scope="module")
def model():
    return scaled()


def crops(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 128, 128), dtype=torch.uint8, generator=generator)


def test_an_image_takes_the_tokens_of_one_small_crop(model):
    small = tiny_config(zoom=LOW).layout
    assert (model.layout.num_tokens, model.layout.num_slots) == (small.num_tokens, small.num_slots)
    tokens, _ = model.encode_images(crops(2)[:, None])
    assert tokens.shape[:2] == (2, small.num_slots)
    assert model.projector.in_features == 3 * model.config.vision_config.hidden_size


def test_each_scale_is_the_tower_on_its_pieces_averaged_to_one_grid(model):
    tower, width = model.vision, model.config.vision_config.hidden_size
    pixels = crops(2)
    with torch.no_grad():
        found = tower(pixels).split(width, dim=-1)
        for channels, scale in zip(found, (1, 2, 4), strict=True):
            smaller = avg_pool2d(tower.normalise(pixels), 4 // scale)
            for image in range(2):
                grid, first = torch.zeros(width, 4 * scale, 4 * scale), torch.zeros(width)
                for row in range(scale):
                    for col in range(scale):
                        piece = smaller[image, :, 32 * row : 32 * row + 32, 32 * col : 32 * col + 32]
                        seen = tower.tower(pixel_values=piece[None]).last_hidden_state[0]
                        first += seen[0] / scale**2
                        grid[:, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = seen[1:].T.unflatten(1, (4, 4))
                places = avg_pool2d(grid[None], scale)[0].flatten(1).T
                torch.testing.assert_close(channels[image], torch.cat([first[None], places]), atol=1e-5, rtol=1e-4)


def test_a_crop_gives_the_same_alone_and_in_a_batch(model):
    pixels = crops(3)
    with torch.no_grad():
        alone = torch.cat([model.vision(pixels[n : n + 1]) for n in range(3)])
        torch.testing.assert_close(model.vision(pixels), alone, atol=1e-5, rtol=1e-4)


def test_the_loss_reaches_every_channel_of_the_projector_and_the_tower():
    model = scaled().train()
    tokens, _ = model.encode_images(crops(1)[:, None])
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert (model.projector.weight.grad.abs().sum(0) > 0).all()
    for name, weight in model.vision.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_it_comes_back_from_its_folder_to_the_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, DragonflyForConditionalGeneration)
    assert isinstance(again.vision, ScalesTower)
    assert again.layout == model.layout
    with torch.no_grad():
        ours, theirs = (m.encode_images(crops(1)[:, None])[0] for m in (model, again))
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="vision_tower"):
        model.save_released(tmp_path / "released")


def test_its_flops_are_those_that_torch_counts(model):
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.vision(crops(1))
    assert vision_flops_per_crop(model.config) == counter.get_total_flops()


def test_the_cell_has_the_pretrained_weights_and_the_tokens_of_low():
    config = compose(["experiment=zoom_ablation", "experiment/cell=channels"])
    low = compose(["experiment=zoom_ablation", "experiment/cell=low"])
    parts, theirs = build_components(config), build_components(low)
    assert parts.layout.num_tokens == theirs.layout.num_tokens == 18
    model, plain = model_factory(config, parts)(), model_factory(low, theirs)()
    assert model.layout == parts.layout
    for name, weight in plain.vision.state_dict().items():
        assert torch.equal(model.vision.state_dict()[name], weight), name


@pytest.mark.usefixtures("unchecked")  # which look at one item of a list, by chance
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"scales": []}, r"vision\.tower\.scales=\[\]: give 1 first"),
        ({"scales": [2, 4]}, "give 1 first"),
        *(
            ({"scales": scales}, "divide the largest")
            for scales in ([1, 3, 4], [1, 2.0, 4], [1, "2"], [True, 2], [1, 0])
        ),
        *(
            ({"feature_size": size}, r"vision\.tower\.feature_size=.*whole pixels, at most 128")
            for size in (0, -4, 129, 8.0, True, "32", [32])
        ),
        ({"scales": [1, 2]}, r"vision\.tower\.feature_size=32: at scale 2 a feature stands for 16 pixels"),
        ({"scales": [1, 32], "feature_size": 64}, r"vision\.image_size=128 is not a whole number of patches"),
    ],
)
def test_scales_that_do_not_fit_are_refused(keys, told):
    with pytest.raises(ValueError, match=told):
        scaled(**keys)
