"""Local chat checkpoints: real classes with tiny random or hand-written weights."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SIZE, pictures, tokenizer

from visdiff.errors import InputError, MissingBackendError
from visdiff.llm import Failure, Message, Picture, Reply, Request, Usage
from visdiff.llm.transformers import TransformersChat
from visdiff.torchvision_compat import ensure_torchvision

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    ";{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CONTEXT = 640


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Sets random weights large enough for prompts to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5, generator=generator)


def save_llama(folder: Path, template: str | None = TEMPLATE, ends: int = 5) -> Path:
    """Saves a random language model; one token in ``ends`` ends its replies."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    text = tokenizer()
    text.chat_template = template
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=text.bos_token_id,
            eos_token_id=[text.eos_token_id, *range(5, len(text), ends)],
            pad_token_id=text.pad_token_id,
        )
    )
    randomize(model, 0)
    # The generation settings of a checkpoint must not affect replies.
    model.generation_config.do_sample = True
    model.generation_config.temperature = 2.0
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def save_parrot(folder: Path, answers: dict[str, str]) -> Path:
    """Saves a GPT-2 that continues each of the prompts with a fixed answer.

    Each position predicts one token, whatever comes before it, so the prompts must differ in
    length.
    """
    ensure_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    text = tokenizer()
    text.chat_template = TEMPLATE
    width = 256
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(text),
            n_positions=CONTEXT,
            n_embd=width,
            n_layer=1,
            n_head=1,
            bos_token_id=text.bos_token_id,
            eos_token_id=text.eos_token_id,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        names = torch.randn(len(text), width, generator=generator)
        model.transformer.wte.weight.copy_(names)
        model.transformer.wpe.weight.zero_()
        for prompt, answer in answers.items():
            start = len(text(prompt, add_special_tokens=False)["input_ids"]) - 1
            tokens = [*text(answer, add_special_tokens=False)["input_ids"], text.eos_token_id]
            for step, token in enumerate(tokens):
                model.transformer.wpe.weight[start + step] = 20 * names[token]
    model.save_pretrained(folder)
    text.save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """Saves a random LLaVA and its processor."""
    ensure_torchvision()
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    text = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=16,
        ),
        text_config=LlamaConfig(
            vocab_size=len(text),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=text.bos_token_id,
            eos_token_id=[text.eos_token_id, *range(5, len(text), 5)],
            pad_token_id=text.pad_token_id,
        ),
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    model = LlavaForConditionalGeneration(config)
    randomize(model, 1)
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        text,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def png(seed: int) -> Picture:
    buffer = io.BytesIO()
    pictures(1, seed)[0].save(buffer, "PNG")
    return Picture(buffer.getvalue())


def ask(text: str, *more: str | Picture, **fields: Any) -> Request:
    return Request((Message("user", (text, *more)),), "test/1", **fields)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def chat(folder: Path, **fields: Any) -> TransformersChat:
    return TransformersChat(**{"model": str(folder), "device": "cpu", **fields})


def decode_greedily(folder: Path, request: Request) -> tuple[list[int], int]:
    """Decodes greedily, one token at a time, without the code under test."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = set(model.generation_config.eos_token_id)
    prompt = f"u:{request.messages[0].parts[0]};a:"
    ids = text(prompt, add_special_tokens=False)["input_ids"]
    tokens: list[int] = []
    with torch.no_grad():
        while len(tokens) < (request.max_tokens or 40):
            token = int(model(torch.tensor([ids + tokens])).logits[0, -1].argmax())
            if token in ends:
                return tokens, len(ids)
            tokens.append(token)
    return [*tokens, -1], len(ids)


def test_greedy_decoding_depends_only_on_the_weights(llama: Path) -> None:
    requests = [ask(f"question {n}", max_tokens=40) for n in range(12)]
    results = chat(llama).answer(requests)
    text = tokenizer()
    complete = 0
    for request, result in zip(requests, results, strict=True):
        tokens, prompt = decode_greedily(llama, request)
        expected = text.decode(tokens, skip_special_tokens=True).strip()
        if tokens[-1:] == [-1]:
            assert result == Failure("reply cut at 40 tokens", "length", Usage(prompt, 40))
        elif not expected:
            assert isinstance(result, Failure)
            assert result.kind == "empty"
        else:
            complete += 1
            assert isinstance(result, Reply)
            assert (result.text, result.finish_reason) == (expected, "stop")
            assert result.usage == Usage(prompt, len(tokens) + 1)
    assert complete >= 3


def test_a_reply_cut_while_reasoning_is_generated_again_with_four_times_the_limit(
    llama: Path,
) -> None:
    class Reasoning(TransformersChat):
        """A model that reasons for 100 tokens."""

        def _generate(self, batch: Sequence[Any]) -> list[tuple[str, bool, Usage]]:
            limits.append(batch[0].request.max_tokens)
            if limits[-1] > 100:
                return [("<think>a cat?</think>a dog", True, Usage(5, 110))]
            return [("<think>a cat", False, Usage(5, limits[-1]))]

    limits: list[int] = []
    model = Reasoning(str(llama), device="cpu")
    reply, failure = model.answer([ask("a", max_tokens=40), ask("b", max_tokens=10)])
    assert isinstance(reply, Reply)
    assert (reply.text, reply.usage) == ("a dog", Usage(10, 150))
    assert isinstance(failure, Failure)
    assert (failure.kind, limits) == ("length", [40, 160, 10, 40])


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_reply_does_not_depend_on_its_batch(llama: Path, temperature: float | None) -> None:
    requests = [
        ask(
            "x" * (n % 3) + str(n),
            max_tokens=3 + n % 2 * 9,
            temperature=temperature,
            seed=0,
            sample=n,
        )
        for n in range(10)
    ]
    together = chat(llama, batch_size=8).answer(requests)
    alone = [chat(llama, batch_size=1).answer([request])[0] for request in reversed(requests)]
    assert together == alone[::-1]


def test_samples_differ_and_are_reproducible(llama: Path) -> None:
    state = torch.random.get_rng_state()
    requests = [ask("hello", max_tokens=30, temperature=1.0, sample=n) for n in range(8)]
    first = chat(llama).answer(requests)
    assert chat(llama).answer(requests) == first
    assert len({getattr(result, "text", None) for result in first}) > 2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_samples_follow_the_probabilities(llama: Path) -> None:
    choices = ("cat", "dog")
    (scored,) = chat(llama).answer([ask("which?", choices=choices)])
    assert isinstance(scored, Reply)
    hot = 20.0
    logit = math.log(scored.probabilities["cat"] / scored.probabilities["dog"]) / hot
    n = 200
    samples = chat(llama).answer(
        [ask("which?", choices=choices, temperature=2.0, sample=k) for k in range(n)]
    )
    share = sum(r.text == "cat" for r in samples if isinstance(r, Reply)) / n
    wanted = 1 / (1 + math.exp(-logit * hot / 2.0))
    assert share == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / n))


@pytest.mark.parametrize("choices", [("yes", "no"), ("n", "no"), ("a", "b", "c")], ids="-".join)
def test_choices_are_scored_by_the_probability_of_all_their_tokens(
    llama: Path, choices: tuple[str, ...]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    request = ask("well?", choices=choices)
    (result,) = chat(llama).answer([request])
    assert isinstance(result, Reply)
    text = AutoTokenizer.from_pretrained(llama)
    model: Any = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id
    prompt = text("u:well?;a:", add_special_tokens=False)["input_ids"]

    def after(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    exact: list[float] = []
    for choice in choices:
        total, ids = 0.0, list(prompt)
        for token in text(choice, add_special_tokens=False)["input_ids"]:
            total += float(after(ids)[token])
            ids.append(token)
        if choices[0] == "n":
            # "n" is a prefix of "no", so the probability of an end token counts.
            total += float(after(ids)[ends].logsumexp(-1))
        exact.append(math.exp(total))
    wanted = {c: p / sum(exact) for c, p in zip(choices, exact, strict=True)}
    assert result.probabilities == pytest.approx(wanted, rel=1e-3)
    assert result.text == max(wanted, key=lambda choice: wanted[choice])


def prompt_with_schema(question: str) -> str:
    """Returns the formatted prompt of a question with a schema."""
    instruction = (
        "Reply with one JSON value that fits this JSON schema, and nothing else:\n"
        f"{json.dumps(SCHEMA)}"
    )
    return f"u:{question}\n\n{instruction};a:"


def test_a_schema_is_described_in_the_prompt(tmp_path: Path) -> None:
    folder = save_parrot(tmp_path, {prompt_with_schema("how many?"): 'So: {"n": 12}'})
    (result,) = chat(folder).answer([ask("how many?", schema=SCHEMA)])
    assert isinstance(result, Reply), result
    assert (result.data, result.text) == ({"n": 12}, 'So: {"n": 12}')


def test_an_invalid_reply_is_corrected_once(tmp_path: Path) -> None:
    first = prompt_with_schema("how many?")
    reason = "JSON of another shape: at n: Input should be a valid integer"
    instruction = prompt_with_schema("").removeprefix("u:\n\n")
    second = f'u:how many?;a:{{"n": "x"}};u:That does not fit: {reason}. {instruction}'
    folder = save_parrot(tmp_path, {first: '{"n": "x"}', second: '{"n": 3}'})
    (result,) = chat(folder).answer([ask("how many?", schema=SCHEMA)])
    assert isinstance(result, Reply), result
    assert result.data == {"n": 3}
    # The usage is that of both calls.
    text = tokenizer()
    lengths = [len(text(p, add_special_tokens=False)["input_ids"]) for p in (first, second)]
    assert result.usage == Usage(sum(lengths), len('{"n":"x"}') + len('{"n":3}') + 2 + 2)


def test_random_text_is_no_data(llama: Path) -> None:
    (result,) = chat(llama).answer([ask("how many?", schema=SCHEMA, max_tokens=40)])
    assert isinstance(result, Failure)
    assert result.kind in ("parse", "length", "empty")


def test_a_vision_model_uses_the_picture(llava: Path) -> None:
    model = chat(llava)
    assert model.has_vision
    results = model.answer([ask("what?", png(seed), choices=("cat", "dog")) for seed in (1, 2, 1)])
    odds = [
        r.probabilities["dog"] / r.probabilities["cat"] for r in results if isinstance(r, Reply)
    ]
    assert odds[0] == pytest.approx(odds[2], rel=1e-4)
    assert odds[0] != pytest.approx(odds[1], rel=0.05)


def test_replies_to_pictures_do_not_depend_on_their_batch(llava: Path) -> None:
    requests = [ask("what?", png(seed), max_tokens=10) for seed in range(5)]
    requests += [ask("two:", png(1), png(2), max_tokens=10), ask("none", max_tokens=10)]
    together = chat(llava, batch_size=8).answer(requests)
    alone = [chat(llava, batch_size=1).answer([request])[0] for request in requests]
    assert together == alone


def test_pictures_for_a_model_without_vision_raise(llama: Path) -> None:
    model = chat(llama)
    assert not model.has_vision
    with pytest.raises(InputError, match="model has no vision"):
        model.answer([ask("what?", png(0))])


def test_a_template_without_system_role_gets_the_system_text(tmp_path: Path) -> None:
    folder = save_llama(tmp_path, NO_SYSTEM + TEMPLATE)
    system = Request((Message("system", ("S",)), Message("user", ("U",))), "t/1", max_tokens=5)
    folded = ask("S\n\nU", max_tokens=5)
    one, other = chat(folder).answer([system, folded])
    assert one == other


def test_a_text_over_the_context_raises_after_earlier_replies(llama: Path) -> None:
    got: list[int] = []
    with pytest.raises(InputError, match=rf"shorter than the context .*{CONTEXT} tokens") as caught:  # noqa: PT012
        for index, _ in chat(llama).stream([ask("a", max_tokens=2), ask("b" * 700), ask("c")]):
            got.append(index)
    assert got == [0]
    assert "\n" not in str(caught.value)


def test_the_identity_is_that_of_the_weights(llama: Path, llava: Path, tmp_path: Path) -> None:
    import shutil

    moved = shutil.copytree(llama, tmp_path / "moved")
    assert chat(moved, batch_size=3).identity == chat(llama).identity
    assert chat(llava).identity != chat(llama).identity
    assert chat(llama, max_new_tokens=7).identity != chat(llama).identity
    json.dumps(dict(chat(llama).identity))


def test_folders_without_a_chat_model_raise(tmp_path: Path) -> None:
    plain = save_llama(tmp_path / "plain", None)
    with pytest.raises(InputError, match="no chat template"):
        chat(plain).answer([ask("a")])
    with pytest.raises(InputError, match="which is not a folder"):
        chat(tmp_path / "nowhere")
    with pytest.raises(InputError, match="got none"):
        TransformersChat()
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingBackendError, match="Expected a chat model and its tokenizer"):
        chat(tmp_path / "empty").answer([ask("a")])
    with pytest.raises(MissingBackendError, match="not on disk"):
        TransformersChat("owner/name").answer([ask("a")])
