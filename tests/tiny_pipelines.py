"""Diffusers pipelines of a few thousand random weights: SD 1 to 3, Flux, one without prompts."""

from typing import Any

import torch

from visdiff import miniature
from visdiff.torchvision_compat import ensure_torchvision

WIDTH = 64


def tokenizer(pad: str | None = None) -> Any:
    """The miniature's tokenizer, padding with its end token or another."""
    ensure_torchvision()
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(miniature.folder("diffusion") / "tokenizer")
    if pad is not None:
        words.pad_token = pad
    return words


def spread(model: torch.nn.Module, seed: int) -> Any:
    """Weights large enough that prompts change what comes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                deviation = 1.5 / parameter[0].numel() ** 0.5
                parameter.normal_(0, deviation, generator=generator)
            elif name.endswith("bias"):
                # Made from the global generator, else: no two pipelines would be alike.
                parameter.normal_(0, 0.1, generator=generator)
    return model.eval()


def text_encoder(
    kind: Any, seed: int, words: Any, width: int = WIDTH, act: str = "quick_gelu"
) -> Any:
    """A CLIP text tower of two layers."""
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=words.model_max_length,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return spread(kind(config), seed)


def unet(width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return spread(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=width,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **more,
        ),
        1,
    )


def vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    build: Any = AutoencoderKL  # its annotations know one block only
    return spread(
        build(
            block_out_channels=(4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=2,
            latent_channels=4,
            **more,
        ),
        2,
    )


def scheduler(prediction: str = "epsilon") -> Any:
    from diffusers import DDIMScheduler

    build: Any = DDIMScheduler
    return build(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def sd1() -> Any:
    """Stable Diffusion 1: padding with the end token, convolutions around the attention."""
    return _stable_diffusion(tokenizer(), "epsilon")


def sd2() -> Any:
    """Stable Diffusion 2: padding with "!", linear projections, v-prediction, GELU."""
    return _stable_diffusion(tokenizer("!"), "v_prediction", act="gelu", use_linear_projection=True)


def sdxl() -> Any:
    """Stable Diffusion XL: two encoders, the second one's pooled vector too."""
    words, more_words = tokenizer(), tokenizer("!")
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    half = WIDTH // 2
    pipe = StableDiffusionXLPipeline(
        vae(),
        text_encoder(CLIPTextModel, 3, words, half),
        text_encoder(CLIPTextModelWithProjection, 4, more_words, half, "gelu"),
        words,
        more_words,
        unet(
            WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + half,
            use_linear_projection=True,
        ),
        scheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux() -> Any:
    """Flux: T5's states and CLIP's pooled vector, biased projections of both, a transformer."""
    words, pieces = tokenizer(), t5_tokenizer()
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH // 2,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae(shift_factor=0.1, scaling_factor=0.36),
        text_encoder(CLIPTextModel, 3, words, WIDTH // 2),
        words,
        t5(pieces),
        pieces,
        spread(transformer, 1),
    )
    pipe.default_sample_size = 8
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3() -> Any:
    """Stable Diffusion 3: states and pooled vectors of two CLIP encoders, T5, a transformer."""
    words, more_words, pieces = tokenizer(), tokenizer("!"), t5_tokenizer()
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    half = WIDTH // 2
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=half,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=16,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=spread(transformer, 1),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=text_encoder(CLIPTextModelWithProjection, 3, words, half),
        tokenizer=words,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, 4, more_words, half, "gelu"),
        tokenizer_2=more_words,
        text_encoder_3=t5(pieces),
        tokenizer_3=pieces,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3_without_t5() -> Any:
    """Stable Diffusion 3 without its third text encoder, as many load it."""
    pipe = sd3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    return pipe


def t5(pieces: Any) -> Any:
    """A T5 encoder of two layers."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(pieces), d_model=WIDTH, d_kv=8, d_ff=2 * WIDTH, num_layers=2, num_heads=4
    )
    return spread(T5EncoderModel(config), 4)


def t5_tokenizer() -> Any:
    """T5's tokenizer with the letters and the miniature's words as its pieces."""
    ensure_torchvision()
    from transformers import T5Tokenizer

    from visdiff.miniature import world

    words = {w for s in (*world.SUBJECTS, *world.PROFESSIONS, "a", "of") for w in s.split()}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in sorted(words)]
    pieces += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz,"]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=32)


def unconditional() -> Any:
    """A pipeline that reads no prompt."""
    ensure_torchvision()
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    model = UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    return DDPMPipeline(model, DDPMScheduler())


def picture(pipe: Any, prompt: str = "a church", seed: int = 0, **more: Any) -> Any:
    """One image as float32, shape (height, width, 3), values in [0, 1]."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor if hasattr(pipe, "unet") else 32
    with torch.inference_mode():
        return pipe(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            num_inference_steps=3,
            guidance_scale=4.0,
            height=side,
            width=side,
            output_type="np",
            **more,
        ).images[0]


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    """A copy of every tensor of a pipeline."""
    return {
        f"{part}.{name}": value.clone()
        for part in (
            *("unet", "transformer", "vae"),
            *("text_encoder", "text_encoder_2", "text_encoder_3"),
        )
        if isinstance(module := getattr(pipe, part, None), torch.nn.Module)
        for name, value in module.state_dict().items()
    }


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two copies agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _stable_diffusion(words: Any, prediction: str, act: str = "quick_gelu", **more: Any) -> Any:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    pipe = StableDiffusionPipeline(
        vae(),
        text_encoder(CLIPTextModel, 3, words, act=act),
        words,
        unet(WIDTH, **more),
        scheduler(prediction),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
