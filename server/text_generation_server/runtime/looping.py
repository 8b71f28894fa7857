"""A `Loop` as a JAX function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from text_generation_server.lowering.loop import Loop, renamed
from text_generation_server.lowering.lowered import LoweredProgram

Part = Callable[..., Any]
"""A recorded program that is called with the values of its parameters, and returns those of its results."""


def looped(loop: Loop, called: Mapping[str, Part]) -> Callable[..., tuple[Array, ...]]:
    """The function of the loop's parameters that returns its results; `called`: its parts, by name."""
    carried = [result.name for result in loop.results[:-1]]

    def call(*values: Array) -> tuple[Array, ...]:
        given = {
            (parameter.source, parameter.name): value
            for parameter, value in zip(loop.parameters, values, strict=True)
        }
        arguments = {name: value for (source, name), value in given.items() if source == "argument"}
        count, choice = arguments["count"][0], arguments["choice"][0]

        changing = [
            name for name in carried if any(name == r.name for part in loop.choices for r in part.results)
        ]
        # Without the cache, which no choice needs to be handed.
        read = {*changing, *(each.name for part in loop.choices for each in part.parameters)}

        def run(part: LoweredProgram, state: Mapping[str, Array]) -> dict[str, Array]:
            passed = [
                state[each.name]
                if each.source == "argument"
                else given[each.source, renamed(part, each).name]
                for each in part.parameters
            ]
            names = [result.name for result in part.results]
            return dict(zip(names, called[part.name](*passed), strict=True))

        def chosen_by(part: LoweredProgram) -> Callable[[dict[str, Array]], tuple[Array, ...]]:
            def choose(state: dict[str, Array]) -> tuple[Array, ...]:
                results = run(part, state)
                return (*(results.get(name, state[name]) for name in changing), results["chosen"])

            return choose

        def goes_on(so_far: tuple[Array, Array, Array, Sequence[Array]]) -> Array:
            place, wanted, _, _ = so_far
            return (place < count) & jnp.any(wanted > 0)

        def step(so_far: tuple[Array, Array, Array, Sequence[Array]]) -> tuple[Any, ...]:
            place, wanted, chosen, held = so_far
            state = {**arguments, **dict(zip(carried, held, strict=True))}
            state |= run(loop.forward, state)
            rows = {name: value for name, value in state.items() if name in read}
            *changed, packed = lax.switch(choice, [chosen_by(part) for part in loop.choices], rows)
            state |= dict(zip(changing, changed, strict=True))
            is_end = jnp.any(state["tokens"][:, None] == arguments["ends"], axis=1)
            wanted = jnp.where(is_end, jnp.int32(0), wanted - 1)
            chosen = lax.dynamic_update_slice_in_dim(chosen, packed[:, None], place, axis=1)
            return place + 1, wanted, chosen, [state[name] for name in carried]

        nothing = jnp.full(loop.results[-1].shape, -1.0, jnp.float32)
        begun = (jnp.int32(0), arguments["wanted"], nothing, [arguments[name] for name in carried])
        _, _, chosen, held = lax.while_loop(goes_on, step, begun)
        return (*held, chosen)

    return call
