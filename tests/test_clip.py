"""CLIP's towers beside transformers and open_clip at full width, its files in every format, and its two resizings."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import heavy_unless, relative_error
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from benchmarks import references
from scav_jax.features import pictures
from scav_jax.models import clip
from scav_jax.models.clip_resnet import ResNetConfig
from scav_jax.models.clip_vit import VitConfig
from scav_jax.models.weights import WeightsError, read_weights

TINY = VitConfig(width=16, num_layers=2, num_heads=2, patch=16, projection=8, image=32)
TINY_RESNET = ResNetConfig(blocks=(1, 1, 1, 1), width=2, projection=6, image=64)


def arrays_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def weights_of(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "reference.pt")
    return read_weights(tmp_path / "reference.pt")


def normalised(pictures):
    images = (pictures / 255 - np.array(clip.MEAN)) / np.array(clip.STDDEV)
    return torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)


def pictures_of(rng, count, size=clip.SIZE):
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def apply(weights, config, output, pictures, precision="float32"):
    run = jax.jit(lambda parameters, x: clip.apply(parameters, config, output, x, precision))
    return run(clip.convert(weights, config, output), jnp.asarray(pictures))


@pytest.mark.parametrize(
    "model",
    [heavy_unless(model == "clip-vit-b32", model) for model in ("clip-vit-b32", "clip-vit-b16", "clip-vit-l14")],
)
def test_vision_transformers_equal_those_of_transformers(model, tmp_path, rng):
    config = replace(clip.MODELS[model], num_layers=2)  # at full depth: benchmarks/encoders.py
    reference, pictures = references.vision_transformer(config), pictures_of(rng, 2)
    with torch.no_grad():
        whole, hidden = reference(normalised(pictures)), reference.vision_model(normalised(pictures))
    weights = weights_of(reference, tmp_path)
    expected = {
        "projection": whole.image_embeds,
        "class": hidden.pooler_output,
        "patches": hidden.last_hidden_state[:, 1:].mean(dim=1),
    }
    assert set(expected) == set(clip.outputs(model))
    for output, vectors in expected.items():
        ours = apply(weights, config, output, pictures)
        assert ours.shape == (2, clip.width(model, output))
        assert relative_error(ours, vectors) < 2e-5


def test_resnet_equals_open_clips(tmp_path, rng):
    config, pictures = clip.MODELS["clip-rn50"], pictures_of(rng, 2)
    reference = references.resnet(config)
    weights = weights_of(reference, tmp_path)
    with torch.no_grad():
        last = reference.stem(normalised(pictures))
        for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            last = stage(last)
        expected = {"map": last.mean(dim=(2, 3)), "attnpool": reference.attnpool(last)}
    assert tuple(expected) == clip.outputs("clip-rn50")
    for output, vectors in expected.items():
        ours = apply(weights, config, output, pictures)
        assert ours.shape == (2, clip.width("clip-rn50", output))
        assert relative_error(ours, vectors) < 2e-5


def to_transformers_5(arrays, path):
    save_file(arrays, path)


def to_transformers_4(arrays, path):
    """The whole of CLIP, with position ids and a text tower."""
    text = {"text_model.final_layer_norm.weight": np.ones(3), "text_projection.weight": np.ones((2, 2))}
    ids = {"vision_model.embeddings.position_ids": np.arange(5)[None]}
    save_file({**arrays, **text, **ids, "logit_scale": np.ones(())}, path)


def to_vision_model_of_5(arrays, path):
    """Without the prefix, as CLIPVisionModel is saved."""
    save_file({name.removeprefix("vision_model."): array for name, array in arrays.items()}, path)


def to_flax(arrays, path):
    tree = {}
    for name, array in arrays.items():
        *folders, leaf = name.split(".")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        if leaf == "weight" and "embedding" in name and "patch" not in name:
            leaf = "embedding"
        elif leaf == "weight":
            leaf = "kernel" if array.ndim > 1 else "scale"
        node[leaf] = array.transpose(*range(2, array.ndim), 1, 0) if leaf == "kernel" else array
    path.write_bytes(msgpack_serialize(tree))


def to_openai(arrays, path):
    renamed = {}
    for name, array in arrays.items():
        for theirs, ours in {
            "visual.": "vision_model.",
            "visual.proj": "visual_projection.weight",
            "class_embedding": "embeddings.class_embedding",
            "positional_embedding": "embeddings.position_embedding.weight",
            "conv1.": "embeddings.patch_embedding.",
            "ln_pre.": "pre_layrnorm.",
            "ln_post.": "post_layernorm.",
            "transformer.resblocks.": "encoder.layers.",
            ".ln_": ".layer_norm",
            ".attn.": ".self_attn.",
            ".c_fc.": ".fc1.",
            ".c_proj.": ".fc2.",
        }.items():
            name = name.replace(ours, theirs)
        renamed[name] = array.T if name == "visual.proj" else array
    for kind in ("weight", "bias"):
        for layer in range(TINY.num_layers):
            prefix = f"visual.transformer.resblocks.{layer}.attn."
            parts = [renamed.pop(f"{prefix}{part}_proj.{kind}") for part in "qkv"]
            renamed[f"{prefix}in_proj_{kind}"] = np.concatenate(parts)
    renamed["token_embedding.weight"] = np.ones((2, 2))
    torch.save({name: torch.tensor(array).half() for name, array in renamed.items()}, path)


@pytest.mark.parametrize(
    ("name", "write", "tolerance"),
    [
        ("model.safetensors", to_transformers_5, 1e-6),
        ("model.safetensors", to_transformers_4, 1e-6),
        ("model.safetensors", to_vision_model_of_5, 1e-6),
        ("flax_model.msgpack", to_flax, 1e-6),
        ("ViT-B-32.pt", to_openai, 5e-3),  # its numbers are halves
    ],
)
def test_every_published_format_gives_the_same(name, write, tolerance, tmp_path, rng):
    reference, pictures = references.vision_transformer(TINY), pictures_of(rng, 2, TINY.image)
    write(arrays_of(reference), tmp_path / name)
    with torch.no_grad():
        expected = reference(normalised(pictures)).image_embeds
    assert relative_error(apply(read_weights(tmp_path / name), TINY, "projection", pictures), expected) < tolerance


class Whole(torch.nn.Module):
    """CLIP as OpenAI's files hold it: TorchScript, the tower below `visual`."""

    def __init__(self, visual):
        super().__init__()
        self.visual = visual
        self.register_buffer("input_resolution", torch.tensor(TINY_RESNET.image))

    def forward(self, images):
        return self.visual(images)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_archive_is_read_as_its_state(tmp_path, rng):
    reference, pictures = references.resnet(TINY_RESNET), pictures_of(rng, 2, TINY_RESNET.image)
    torch.jit.save(torch.jit.trace(Whole(reference), normalised(pictures)), tmp_path / "RN50.pt")
    with torch.no_grad():
        expected = reference(normalised(pictures))
    ours = apply(read_weights(tmp_path / "RN50.pt"), TINY_RESNET, "attnpool", pictures)
    assert relative_error(ours, expected) < 1e-5


def test_a_file_that_does_not_fit_is_refused_by_every_name(tmp_path):
    arrays = arrays_of(references.vision_transformer(TINY))
    arrays["vision_model.extra.weight"] = np.ones(3, np.float32)
    arrays["vision_model.pre_layrnorm.bias"] = np.ones(5, np.float32)
    arrays["vision_model.post_layernorm.bias"][0] = np.nan
    del arrays["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(arrays, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as refused:
        clip.convert(weights, TINY, "projection")
    for part in (
        "model.safetensors: 4 of 40 arrays do not fit",
        "missing encoder.layers.1.mlp.fc1.weight (16, 64)",
        "unexpected extra.weight (3,)",
        "pre_layrnorm.bias: expected shape (16,), got (5,)",
        "post_layernorm.bias: expected finite numbers",
    ):
        assert part in str(refused.value)


def test_a_resnet_file_without_a_statistic_is_refused(tmp_path):
    state = references.resnet(TINY_RESNET).state_dict()
    del state["layer2.0.bn1.running_var"]
    torch.save(state, tmp_path / "rn.pt")
    with pytest.raises(WeightsError, match=r"rn\.pt: 1 arrays are missing: layer2\.0\.bn1\.running_var"):
        clip.convert(read_weights(tmp_path / "rn.pt"), TINY_RESNET, "map")


def test_what_an_output_does_not_need_may_be_missing(tmp_path, rng):
    arrays = arrays_of(references.vision_transformer(TINY))
    del arrays["visual_projection.weight"]
    save_file(arrays, tmp_path / "vision.safetensors")
    weights = read_weights(tmp_path / "vision.safetensors")
    assert apply(weights, TINY, "class", pictures_of(rng, 1, TINY.image)).shape == (1, 16)
    with pytest.raises(WeightsError, match=r"missing visual_projection.weight \(16, 8\)"):
        clip.convert(weights, TINY, "projection")


def test_bfloat16_is_near(tmp_path, rng):
    weights = weights_of(references.vision_transformer(TINY), tmp_path)
    pictures = pictures_of(rng, 4, TINY.image)
    exact, near = (apply(weights, TINY, "projection", pictures, precision) for precision in ("float32", "bfloat16"))
    assert near.dtype == jnp.float32
    assert 1e-4 < relative_error(near, exact) < 3e-2
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'int8'"):
        apply(weights, TINY, "projection", pictures, "int8")


def test_unknown_models_and_outputs():
    with pytest.raises(ValueError, match=r"model: expected one of clip-vit-b32, .*, got 'clip'"):
        clip.outputs("clip")
    with pytest.raises(ValueError, match="output: expected one of map, attnpool of clip-rn50, got 'class'"):
        clip.width("clip-rn50", "class")


def test_random_parameters_are_of_the_right_kind():
    parameters = clip.init(0, "clip-rn50", "map")
    assert "attnpool" not in parameters
    config = clip.MODELS["clip-rn50"]
    features = jax.jit(lambda x: clip.apply(parameters, config, "map", x))(jnp.zeros((1, 32, 32, 3), jnp.uint8))
    assert features.shape == (1, 2048)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (64, 96), (224, 224), (225, 301)])
def test_both_resizings_agree(size, rng):
    coarse = rng.integers(0, 256, (2, 6, 8, 3), np.uint8)
    smooth = np.asarray(jax.image.resize(coarse.astype(np.float32), (2, *size, 3), "linear")).round().astype(np.uint8)
    noise = rng.integers(0, 256, (1, *size, 3), np.uint8)
    for frames in (smooth, noise):
        theirs, ours = pictures.resize(frames), np.asarray(clip.resize(jnp.asarray(frames)))
        assert theirs.shape == ours.shape == (len(frames), 224, 224, 3)
        apart = np.abs(theirs.astype(int) - ours)
        assert apart.max() <= 2
        assert apart.mean() < 0.1
