"""The kernel `experts`, see `engine.kernels`: three ways to compute the same, chosen by shapes alone.

What a step costs is reading the matrices of experts, so the few tokens of a decode step read each at most once:

- where they choose at least as many experts as there are, nearly all are needed while all slots are in use. Of small
  experts all are computed for all tokens in two multiplications, and what was not chosen is cut out in between;
- else a loop runs over the experts that somebody chose, and reads no others.

The many tokens of a prompt are sorted by expert, and a loop runs over blocks of tokens that have theirs in common.

In all of them a token's result is the sum of its own experts' results in the order of the experts or of its choice, and
no expert has room for so many tokens only: it does not depend on the other tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

FEW, FEW_ON_CPU = 128, 16
"""Up to so many tokens are multiplied with each expert that is read: reading is what the device waits for. A TPU
multiplies about 240 (v5e) or 560 (v6e) tokens with a bfloat16 while it reads the next; a CPU some ten."""

SMALL = 8 * 2**20
"""Bytes of an expert on each chip. To read as many takes ten microseconds on v5e and five on v6e: next to that, what a
turn of a loop costs is little, and so is it next to what is saved when few slots are in use."""

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 256
"""Tokens of a block. With as many as the largest, multiplying takes a TPU about as long as reading the matrices."""

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class Way(Enum):
    """How experts are computed, see above."""

    ALL_AT_ONCE = auto()
    THOSE_CHOSEN = auto()
    IN_BLOCKS = auto()


def way_for(tokens: int, k: int, count: int, bytes_of_one: int, few: int = FEW) -> Way:
    """`count`: of experts. `bytes_of_one`: of the matrices of one, on each chip."""
    if tokens > few:
        return Way.IN_BLOCKS
    return Way.ALL_AT_ONCE if tokens * k >= count and bytes_of_one < SMALL else Way.THOSE_CHOSEN


def experts(
    hidden: Array,
    chosen: Array,
    weights: Array,
    *parameters: Array,
    names: Sequence[str],
    inputs_first: bool,
    activation: str,
    alpha: float,
    limit: float,
    chips: int,
) -> Array:
    layer = Layer(
        dict(zip(names, parameters, strict=True)), inputs_first, activation, alpha, limit, chips, hidden.dtype
    )
    # Only a CPU has inputs first, see `model.experts`.
    tokens, k = chosen.shape
    way = way_for(tokens, k, layer.count, layer.bytes_of_one, FEW_ON_CPU if inputs_first else FEW)
    ways = {Way.ALL_AT_ONCE: all_at_once, Way.THOSE_CHOSEN: those_chosen, Way.IN_BLOCKS: in_blocks}
    return ways[way](layer, hidden, chosen, weights).astype(hidden.dtype)


@dataclass(frozen=True)
class Layer:
    """The experts of one layer. Of several chips each has a part of the width of every expert: partial results have
    the chips as first dimension, so that they meet after a loop, and not in it."""

    parameters: Mapping[str, Array]
    inputs_first: bool
    activation: str
    alpha: float
    limit: float
    chips: int
    dtype: jnp.dtype

    @property
    def count(self) -> int:
        return int(self.parameters["down"].shape[0])

    @property
    def parts(self) -> int:
        """Into how many parts each expert's width is divided."""
        return self.chips if self.parameters["down"].shape[1] % self.chips == 0 else 1

    @property
    def bytes_of_one(self) -> int:
        """Of the matrices of one expert, on each chip."""
        matrices = (self.parameters[name] for name in ("gate", "up", "down"))
        return int(sum(each.size * each.dtype.itemsize for each in matrices) // self.count // self.parts)

    def product(self, equation: str, left: Array, right: Array) -> Array:
        """An einsum that adds up in float32."""
        precision = lax.Precision.HIGHEST if self.dtype == jnp.float32 else None
        return jnp.einsum(
            equation,
            left,
            right.astype(self.dtype),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    def finished(self, outputs: Array, name: str, take: Callable[[Array], Array]) -> Array:
        """Outputs of a matrix, scaled and with its bias; `take` brings what each output has into their shape."""
        if f"{name}_scales" in self.parameters:
            outputs = outputs * take(self.parameters[f"{name}_scales"])
        if f"{name}_bias" in self.parameters:
            outputs = outputs + take(self.parameters[f"{name}_bias"]).astype(jnp.float32)
        return outputs

    def gated(self, gate: Array, up: Array) -> Array:
        """In the model's dtype, in which its own code has both."""
        gate, up = gate.astype(self.dtype), up.astype(self.dtype)
        if self.activation != "clamped":
            return ACTIVATIONS[self.activation](gate) * up
        gate = jnp.minimum(gate, self.limit)
        up = jnp.clip(up, -self.limit, self.limit)
        return (up + 1) * (gate * jax.nn.sigmoid(gate * self.alpha))

    def expert(self, index: Array, hidden: Array) -> Array:
        """What one expert makes of tokens, without the last bias: [parts, tokens, hidden] float32, to be added up."""

        def of(name: str) -> Array:
            return lax.dynamic_index_in_dim(self.parameters[name], index, keepdims=False)

        def first(name: str) -> Array:
            matrix = of(name)
            if self.inputs_first:
                outputs = self.product("nh,hpi->pni", hidden, matrix.reshape(-1, self.parts, width))
            else:
                outputs = self.product("nh,pih->pni", hidden, matrix.reshape(self.parts, width, -1))
            return self.finished(
                outputs,
                name,
                lambda each: lax.dynamic_index_in_dim(each, index, keepdims=False).reshape(
                    self.parts, 1, width
                ),
            )

        width = self.parameters["down"].shape[1] // self.parts
        inner = self.gated(first("gate"), first("up"))
        made = self.product("pni,pih->pnh", inner, of("down").reshape(self.parts, width, -1))
        return made * of("down_scales") if "down_scales" in self.parameters else made


def all_at_once(layer: Layer, hidden: Array, chosen: Array, weights: Array) -> Array:
    """[tokens, hidden] float32."""
    share, is_chosen = shares(layer, chosen, weights)

    def first(name: str) -> Array:
        if layer.inputs_first:
            # As many products as experts: as one, XLA on a CPU would turn all matrices in each step.
            each = jnp.broadcast_to(hidden, (layer.count, *hidden.shape))
            outputs = layer.product("enh,ehi->eni", each, layer.parameters[name])
        else:
            outputs = layer.product("nh,eih->eni", hidden, layer.parameters[name])
        return layer.finished(outputs, name, lambda each: each[:, None, :])

    inner = layer.gated(first("gate"), first("up")).astype(jnp.float32)
    inner = jnp.where(is_chosen.T[:, :, None], inner * share.T[:, :, None], jnp.float32(0))
    down = layer.parameters["down"]
    if "down_scales" in layer.parameters:
        # Not afterwards: then what each expert makes would be a result of its own, which chips would have to add up.
        down = down.astype(jnp.float32) * layer.parameters["down_scales"][:, None, :]
    return layer.product("eni,eih->nh", inner.astype(layer.dtype), down) + last_bias(layer, share)


def those_chosen(layer: Layer, hidden: Array, chosen: Array, weights: Array) -> Array:
    """[tokens, hidden] float32."""
    share, is_chosen = shares(layer, chosen, weights)
    is_needed = is_chosen.any(0)
    numbers = jnp.arange(layer.count, dtype=jnp.int32)
    _, needed = lax.sort((jnp.where(is_needed, 0, 1).astype(jnp.int32), numbers), num_keys=1)

    def add(place: Array, summed: Array) -> Array:
        expert = needed[place]
        made = layer.expert(expert, hidden) * lax.dynamic_index_in_dim(share, expert, 1)
        return summed + jnp.where(lax.dynamic_index_in_dim(is_chosen, expert, 1), made, jnp.float32(0))

    nothing = jnp.zeros((layer.parts, *hidden.shape), jnp.float32)
    count = is_needed.sum(dtype=jnp.int32)
    summed = lax.fori_loop(jnp.int32(0), count, add, nothing)
    return summed.sum(0) + last_bias(layer, share)


def in_blocks(layer: Layer, hidden: Array, chosen: Array, weights: Array) -> Array:
    """[tokens, hidden] float32. A pair is a token and one of its experts."""
    tokens, k = chosen.shape
    pairs = tokens * k
    size = block_size(pairs, layer.count)
    numbers = jnp.arange(pairs, dtype=jnp.int32)
    _, order = lax.sort((chosen.reshape(-1), numbers), num_keys=1)
    is_chosen = chosen.reshape(-1, 1) == jnp.arange(layer.count, dtype=jnp.int32)
    counts = is_chosen.sum(0, dtype=jnp.int32)
    starts = jnp.cumsum(counts, dtype=jnp.int32) - counts
    blocks = (counts + (size - 1)) // size
    ends = jnp.cumsum(blocks, dtype=jnp.int32)
    sorted_hidden = jnp.pad(jnp.take(hidden, order // k, axis=0, mode="clip"), ((0, size), (0, 0)))

    def block(number: Array, made: Array) -> Array:
        expert = (ends <= number).sum(dtype=jnp.int32)
        start = starts[expert] + (number - ends[expert] + blocks[expert]) * size
        given = lax.dynamic_slice_in_dim(sorted_hidden, start, size)
        # What it makes of pairs behind its own is overwritten by the blocks after it.
        new = layer.expert(expert, given).astype(layer.dtype)
        return lax.dynamic_update_slice_in_dim(made, new, start, axis=1)

    nothing = jnp.zeros((layer.parts, pairs + size, hidden.shape[1]), layer.dtype)
    made = lax.fori_loop(jnp.int32(0), ends[-1], block, nothing)
    _, places = lax.sort((order, numbers), num_keys=1)
    by_token = jnp.take(made, places, axis=1, mode="clip").reshape(layer.parts, tokens, k, -1)
    summed = (by_token.astype(jnp.float32) * weights[:, :, None]).sum(2).sum(0)
    if "down_bias" not in layer.parameters:
        return summed
    return summed + last_bias(layer, shares(layer, chosen, weights)[0])


def block_size(pairs: int, count: int) -> int:
    """A power of two, at least twice as many as an expert has on average, so that most are read once."""
    wanted = 2 * -(-pairs // count)
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, 1 << (wanted - 1).bit_length()))


def shares(layer: Layer, chosen: Array, weights: Array) -> tuple[Array, Array]:
    """[tokens, experts]: the weight of each expert, float32, and whether it was chosen."""
    is_choice = chosen[:, :, None] == jnp.arange(layer.count, dtype=jnp.int32)
    return jnp.where(is_choice, weights[:, :, None], jnp.float32(0)).sum(1), is_choice.any(1)


def last_bias(layer: Layer, share: Array) -> Array:
    """What the biases of the last matrices add to each token, [tokens, hidden], or 0."""
    if "down_bias" not in layer.parameters:
        return jnp.float32(0)
    return layer.product("ne,eh->nh", share.astype(layer.dtype), layer.parameters["down_bias"])
