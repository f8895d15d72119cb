"""Autoencoders of images, and latents as a state.

Shape legend: B images, L latent channels, y, x height and width of a latent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import polydit
from polydit.domains.vision.autoencoder import GradientLoss, KLAutoencoder, to_latents
from polydit.domains.vision.codec import IMAGE
from polydit.domains.vision.latent import PUBLISHED_SCALE, LatentImageCodec
from polydit.domains.vision.pretrained import WEIGHTS, DiffusersAutoencoder
from polydit.platform.checkpoints import build
from polydit.platform.errors import CheckpointError, ConfigurationError
from polydit.platform.module import GenerativeModule
from polydit.platform.requests import Request
from polydit.platform.systems.autoencoding import AutoencoderSystem

from .conftest import make_batch, make_data, make_system


def make_autoencoder(**options: Any) -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(**{"channels": 1, "latent_channels": 2, "width": 8, "multipliers": (1, 2), **options})


def make_config(autoencoder: Any) -> dict[str, Any]:
    """Configuration of a latent model, as the command line keeps it."""
    return {
        "system": {
            "class_path": "polydit.platform.systems.diffusion.DiffusionSystem",
            "init_args": {
                "codec": {
                    "class_path": "polydit.domains.vision.latent.LatentImageCodec",
                    "init_args": {"autoencoder": autoencoder, "size": 8, "classes": 3},
                },
                "denoiser": {
                    "class_path": "polydit.platform.denoisers.DiT",
                    "init_args": {
                        "embedding": {
                            "class_path": "polydit.platform.denoisers.PatchEmbedding", "init_args": {"in_channels": 2},
                        },
                        "head": {
                            "class_path": "polydit.platform.denoisers.PatchHead", "init_args": {"out_channels": 2},
                        },
                        "width": 64, "depth": 1,
                    },
                },
                "process": {
                    "class_path": "polydit.platform.processes.Process",
                    "init_args": {
                        "schedule": {"class_path": "polydit.platform.processes.LinearFlowSchedule"},
                        "prediction": {"class_path": "polydit.platform.processes.VelocityPrediction"},
                    },
                },
                "sampler": {"class_path": "polydit.platform.samplers.Euler", "init_args": {"steps": 2}},
            },
        }
    }


@pytest.mark.parametrize(("multipliers", "factor"), [((1,), 1), ((1, 2), 2), ((1, 2, 2), 4), ((1, 1, 2, 2), 8)])
def test_shapes_and_factors(multipliers: tuple[int, ...], factor: int) -> None:
    model = make_autoencoder(channels=3, multipliers=multipliers)
    assert model.factor == factor
    posterior = model.encode(torch.randn(2, 3, 16, 8))
    assert posterior.mean.shape == (2, 16 // factor, 8 // factor, 2)
    assert model.decode(to_latents(posterior.mean)).shape == (2, 3, 16, 8)


def test_it_refuses_what_it_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="images of 10 x 12 cannot be divided by 4"):
        make_autoencoder(multipliers=(1, 1, 1)).encode(torch.randn(1, 1, 10, 12))
    for options in ({"width": 12}, {"latent_channels": 0}, {"multipliers": ()}, {"kl": -1.0}, {"blocks": 0}):
        with pytest.raises(ConfigurationError):
            make_autoencoder(**options)


def test_losses_add_up_and_it_learns_to_give_images_back() -> None:
    model = make_autoencoder(losses={"gradient": GradientLoss(0.5)}, kl=1e-4)
    batch = next(iter(make_data().train_dataloader()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for step in range(60):
        losses = model.losses(batch, torch.Generator().manual_seed(step))
        expected = losses["pixel"] + 1e-4 * losses["kl"] + 0.5 * losses["gradient"]
        torch.testing.assert_close(losses["loss"], expected)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        seen.append(float(losses["pixel"].detach()))
    assert seen[-1] < 0.4 * seen[0]
    with torch.no_grad():
        found = AutoencoderSystem(model).reconstruct(batch)
    errors = [np.abs(pair.original.pixels.astype(int) - pair.decoded.pixels).mean() for pair in found]
    assert len(found) == 16 and np.mean(errors) < 45 and found[3].original.name == batch.names[3]


def test_gradient_loss_knows_edges_and_no_brightness() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2:] = 1
    loss = GradientLoss()
    assert float(loss(image + 0.3, image)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss(torch.full_like(image, 0.5), image)) == pytest.approx(1 / 3)


def test_latents_have_unit_scale_after_training_statistics() -> None:
    codec = LatentImageCodec(make_autoencoder(), 8, 3)
    data = make_data()
    codec.prepare(data)
    state, layout = codec.encode(next(iter(data.train_dataloader())), torch.Generator().manual_seed(0))
    assert state[IMAGE].shape == (16, 2, 4, 4) and layout.labels["class"].min() >= 1
    values = torch.cat([
        codec.encode(batch, torch.Generator().manual_seed(1))[0][IMAGE] for batch in data.train_dataloader()
    ])
    torch.testing.assert_close(values.mean(dim=(0, 2, 3)), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(values.std(dim=(0, 2, 3)), torch.ones(2), atol=0.1, rtol=0)


def test_a_given_scale_multiplies_and_decoding_undoes_it() -> None:
    codec = LatentImageCodec(make_autoencoder(), 8, 3, scale=PUBLISHED_SCALE, use_mean=True)
    codec.prepare(make_data())
    batch = make_batch()
    state, _ = codec.encode(batch, torch.Generator())
    raw = to_latents(codec.autoencoder.encode(batch.images.float() / 127.5 - 1).mean)
    torch.testing.assert_close(state[IMAGE], PUBLISHED_SCALE * raw)
    layout = codec.layout([Request(i) for i in range(4)])
    assert layout.shapes[IMAGE] == (4, 2, 4, 4)
    found = codec.decode(state, layout)
    expected = codec.autoencoder.reconstruct(batch)
    for picture, pair in zip(found, expected, strict=True):
        assert np.abs(picture.pixels.astype(int) - pair.decoded.pixels).max() <= 1
    codec.train()
    assert not codec.autoencoder.training and not any(p.requires_grad for p in codec.autoencoder.parameters())


def test_sizes_that_the_factor_does_not_divide_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="smaller by 2, which does not divide size 7"):
        LatentImageCodec(make_autoencoder(), 7)
    with pytest.raises(ConfigurationError, match="size 9 x 8 must be a multiple of the autoencoder's 2"):
        LatentImageCodec(make_autoencoder(), 8).layout([Request(0, {"size": [9, 8]})])
    with pytest.raises(ConfigurationError, match=r"scale -1\.0 must be positive"):
        LatentImageCodec(make_autoencoder(), 8, scale=-1.0)


def test_a_checkpoint_stands_without_its_first_stage(tmp_path: Path) -> None:
    part = {
        "class_path": "polydit.domains.vision.autoencoder.KLAutoencoder",
        "init_args": {"channels": 1, "latent_channels": 2, "width": 8, "multipliers": [1, 2]},
    }
    first = build({"system": {
        "class_path": "polydit.platform.systems.autoencoding.AutoencoderSystem", "init_args": {"autoencoder": part},
    }})  # fmt: skip
    path = tmp_path / "first.ckpt"
    save(first, path)
    second = build(make_config(str(path)))
    save(second, tmp_path / "second.ckpt")
    path.unlink()
    loaded = polydit.load(tmp_path / "second.ckpt")
    for sample, other in zip(loaded.sample(2, seed=1), second.sample(2, seed=1), strict=True):
        np.testing.assert_array_equal(np.asarray(sample), np.asarray(other))
    save(loaded, tmp_path / "wrong.ckpt")
    with pytest.raises(CheckpointError, match="holds a DiffusionSystem, not an autoencoder of images"):
        build(make_config(str(tmp_path / "wrong.ckpt")))


def save(module: GenerativeModule, path: Path) -> None:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def test_a_latent_model_trains() -> None:
    system = make_system(LatentImageCodec(make_autoencoder(), 8, 3), channels=2)
    system.prepare(make_data())
    losses = system.losses(make_batch(), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert all(p.grad is not None for name, p in system.named_parameters() if p.requires_grad)
    sample, = system.generate([Request(0, {"class": 1})])
    assert sample.item.pixels.shape == (8, 8, 1)


SETTINGS: dict[str, Any] = {
    "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2, "in_channels": 3, "out_channels": 3,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An AutoencoderKL as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**SETTINGS).save_pretrained(tmp_path / "vae", safe_serialization=True)
    return tmp_path / "vae"


def test_autoencoders_of_diffusers_give_what_they_give_there(folder: Path) -> None:
    import diffusers

    theirs = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    ours = DiffusersAutoencoder(str(folder))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        posterior, expected = ours.encode(images), theirs.encode(images).latent_dist
        assert torch.equal(to_latents(posterior.mean), expected.mean)
        assert torch.equal(to_latents(posterior.log_variance), expected.logvar)
        assert torch.equal(ours.decode(expected.mean), theirs.decode(expected.mean).sample)
    assert (ours.factor, ours.latent_channels, ours.channels) == (2, 4, 3)
    ours.check_weights()
    with pytest.raises(ConfigurationError, match="is frozen"):
        ours.losses(make_batch(), torch.Generator())


def test_weights_of_diffusers_are_kept_in_the_checkpoint(folder: Path) -> None:
    kind = "polydit.domains.vision.pretrained.DiffusersAutoencoder"
    given = {"class_path": kind, "init_args": {"folder": str(folder)}}
    codec = LatentImageCodec(DiffusersAutoencoder(str(folder)), 8)
    portable = codec.portable_config({"autoencoder": given, "size": 8})
    assert str(folder) not in json.dumps(portable)
    other = LatentImageCodec(DiffusersAutoencoder(**portable["autoencoder"]["init_args"]), 8)
    with pytest.raises(CheckpointError, match="the autoencoder has no weights: give its folder"):
        other.autoencoder.check_weights()
    other.load_state_dict(codec.state_dict())
    other.autoencoder.check_weights()
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(codec.autoencoder.encode(images).mean, other.autoencoder.encode(images).mean)


def test_damaged_folders_are_named(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="give the folder"):
        DiffusersAutoencoder()
    with pytest.raises(CheckpointError, match=r"there is no .*config\.json"):
        DiffusersAutoencoder(str(folder / "nowhere"))
    weights = {key: value.clone() for key, value in load_file(folder / WEIGHTS).items()}  # the file is mapped
    whole = (folder / WEIGHTS).read_bytes()
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer, not the weights"),
        (whole[: len(whole) // 2], "is damaged or of another model"),
    ):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            DiffusersAutoencoder(str(folder))
    name = next(iter(weights))
    save_file({key: value for key, value in weights.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="lacks 1 weights"):
        DiffusersAutoencoder(str(folder))
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled ones are not read"):
        DiffusersAutoencoder(str(folder))
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(CheckpointError, match="describes a VQModel"):
        DiffusersAutoencoder(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        DiffusersAutoencoder(str(folder))
