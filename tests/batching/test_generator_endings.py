"""How a generation ends, and what its last token carries."""

from collections.abc import Callable
from typing import Any

import pytest

from support.rooms import MakeRoom, Room, request, scripted
from support.small_tokenizers import BOS, EOS, MARKED, TOOL
from text_generation_server.batching.generator import Generator
from text_generation_server.batching.requests import FinishReason, GeneratedText
from text_generation_server.sampling.parameters import SamplingParameters
from text_generation_server.text.tokenizer import ModelTokenizer

Say = Callable[..., Room]


def ending(room: Room, **fields: Any) -> GeneratedText:
    *before, last = room.answer(**fields)
    assert all(generation.finished is None for generation in before)
    assert last.finished is not None
    assert last.finished.generated_tokens == len(before) + 1
    return last.finished


def test_a_request_ends_with_length_after_max_new_tokens(say: Say) -> None:
    finished = ending(say(" brown fox jumps over the lazy dog"), max_new_tokens=3)
    assert finished.finish_reason is FinishReason.LENGTH
    assert finished.generated_tokens == 3
    assert " brown fox jumps".startswith(finished.text)


def test_a_request_ends_with_eos_which_counts_but_is_not_in_the_text(say: Say) -> None:
    room = say(f" brown{EOS} fox")
    generations = room.answer(max_new_tokens=20)
    last = generations[-1]
    assert (last.tokens[0].text, last.tokens[0].is_special) == (EOS, True)
    assert last.finished is not None
    assert last.finished.finish_reason is FinishReason.EOS_TOKEN
    assert last.finished.text == " brown"
    assert last.finished.generated_tokens == len(generations)


def test_each_of_several_end_of_sequence_tokens_ends_an_answer(make_room: MakeRoom) -> None:
    """As chat models have them: one for the end of a turn, one for the end of a text."""
    tokenizer = make_room().tokenizer
    fox, turn = (
        tokenizer(" fox", add_special_tokens=False)["input_ids"][0],
        tokenizer.convert_tokens_to_ids(TOOL),
    )
    prompt_length = len(tokenizer("The quick")["input_ids"])
    for end in (turn, tokenizer.eos_token_id):
        room = make_room(next_token=scripted([fox, end, fox], prompt_length))
        room.generator = Generator(
            room.engine,
            ModelTokenizer.from_transformers(tokenizer),
            frozenset({turn, tokenizer.eos_token_id}),
        )
        finished = ending(room, max_new_tokens=20)
        assert (finished.finish_reason, finished.generated_tokens) == (FinishReason.EOS_TOKEN, 2)
        assert finished.text == tokenizer.decode([fox])


def test_an_eos_that_is_the_last_allowed_token_is_an_eos_so_that_the_router_does_not_continue(
    say: Say,
) -> None:
    finished = ending(say(f"x{EOS} fox"), max_new_tokens=2)
    assert finished.finish_reason is FinishReason.EOS_TOKEN


def test_a_stop_sequence_that_ends_with_the_last_allowed_token_is_a_stop_sequence(say: Say) -> None:
    finished = ending(say("xyz fox"), max_new_tokens=3, stop_sequences=("xyz",))
    assert finished.finish_reason is FinishReason.STOP_SEQUENCE


def test_an_eos_is_an_eos_even_if_its_text_is_a_stop_sequence(say: Say) -> None:
    assert ending(say(f"x{EOS}"), stop_sequences=(EOS,)).finish_reason is FinishReason.EOS_TOKEN


def test_a_request_that_ignores_eos_goes_on_to_its_length(say: Say) -> None:
    room = say(f"x{EOS}y{EOS}z fox")
    generations = room.answer(max_new_tokens=5, ignore_eos_token=True)
    assert [generation.tokens[0].text for generation in generations] == ["x", EOS, "y", EOS, "z"]
    assert generations[-1].finished is not None
    assert generations[-1].finished.text == "xyz"
    assert generations[-1].finished.finish_reason is FinishReason.LENGTH


def test_a_stop_sequence_within_a_token_cuts_the_piece_and_the_text_after_it(say: Say) -> None:
    room = say(" dog learning the fox")
    generations = room.answer(max_new_tokens=20, stop_sequences=("g lear",))
    assert "".join(generation.tokens[0].text for generation in generations) == " dog lear"
    assert generations[-1].finished is not None
    assert generations[-1].finished.text == " dog lear"
    assert generations[-1].finished.finish_reason is FinishReason.STOP_SEQUENCE


def test_a_stop_sequence_of_many_byte_characters_is_found(say: Say) -> None:
    finished = ending(say(" 学习 😀🎉 fox"), max_new_tokens=30, stop_sequences=("习 😀",))
    assert (finished.text, finished.finish_reason) == (" 学习 😀", FinishReason.STOP_SEQUENCE)


def test_a_special_token_can_be_a_stop_sequence(say: Say) -> None:
    finished = ending(say(f" fox{TOOL} dog"), max_new_tokens=30, stop_sequences=(TOOL,))
    assert (finished.text, finished.finish_reason) == (" fox", FinishReason.STOP_SEQUENCE)


def test_the_prompt_does_not_count_for_stop_sequences(say: Say) -> None:
    finished = ending(say("kk fox"), max_new_tokens=3, stop_sequences=("quick",))
    assert finished.finish_reason is FinishReason.LENGTH


def test_pieces_of_normal_tokens_concatenate_to_the_text_and_special_tokens_are_flagged(say: Say) -> None:
    text = f" 世界{TOOL} 😀 fox{MARKED}{BOS}e\u0301!"
    room = say(text + EOS)
    generations = room.answer(max_new_tokens=60)
    assert [g.tokens[0].text for g in generations if g.tokens[0].is_special] == [TOOL, MARKED, BOS, EOS]
    normal = "".join(g.tokens[0].text for g in generations if not g.tokens[0].is_special)
    assert generations[-1].finished is not None
    assert normal == generations[-1].finished.text == " 世界 😀 foxe\u0301!"


def test_a_text_cut_within_a_character_is_the_part_that_can_be_decoded(make_room: MakeRoom) -> None:
    tokenizer = make_room().tokenizer
    raw = tokenizer.convert_tokens_to_ids(["k", "ð"])  # "ð" stands for 0xF0, the first byte of an emoji.
    length = len(tokenizer("The quick")["input_ids"])
    room = make_room(next_token=lambda history: raw[len(history) - length])
    generations = room.answer(max_new_tokens=2)
    assert [generation.tokens[0].text for generation in generations] == ["k", ""]
    assert generations[-1].finished is not None
    assert generations[-1].finished.text == "k"


@pytest.mark.parametrize(
    ("sampling", "seed"),
    [
        (SamplingParameters(seed=7), None),
        (SamplingParameters(seed=7, repetition_penalty=1.3), None),
        (SamplingParameters(seed=7, do_sample=True), 7),
        (SamplingParameters(seed=7, temperature=0.5), 7),
        (SamplingParameters(seed=0, top_k=3), 0),
    ],
)
def test_the_seed_is_told_only_if_the_request_sampled(
    make_room: MakeRoom, sampling: SamplingParameters, seed: int | None
) -> None:
    assert ending(make_room(), sampling=sampling, ignore_eos_token=True).seed == seed


def test_the_engine_gets_the_sampling_parameters_and_the_answer_its_logprobs(make_room: MakeRoom) -> None:
    room = make_room()
    sampling = SamplingParameters(temperature=0.5, seed=3)
    generations = room.answer(sampling=sampling, ignore_eos_token=True)
    assert [call.sampling for call in room.engine.fills] == [sampling]
    for generation in generations:
        assert generation.tokens[0].logprob == room.engine.logprob_of(generation.tokens[0].id)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "", "add_special_tokens": False}, "inputs"),
        ({"max_new_tokens": 500}, "max_new_tokens"),
        ({"prompt": "fox " * 500}, "truncate"),
        ({"stop_sequences": ("",)}, "stop"),
    ],
)
def test_one_bad_request_fails_by_name_and_touches_no_slot(
    make_room: MakeRoom, fields: dict[str, Any], message: str
) -> None:
    room = make_room()
    running = room.generator.prefill(0, [request(0, ignore_eos_token=True)])
    outcome = room.generator.prefill(1, [request(1, max_new_tokens=1), request(2, **fields)])
    assert outcome.batch is not None
    assert outcome.batch.request_ids == [1]
    assert list(outcome.failures) == [2]
    assert f"`{message}`" in outcome.failures[2]
    assert len(room.engine.fills) == 2
    assert len(room.run(running)) == 5
    room.run(outcome)
    assert room.engine.live_slots == frozenset()
