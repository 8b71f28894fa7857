"""The JAX functions behind the operations of `engine.kernels`, which says what they take and return."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from text_generation_server.runtime.experts import experts

KEY_BLOCK = 256
"""Keys that a prompt's queries meet at a time."""

COPIED_BLOCK = 2048
"""Positions of a slot that are copied at a time: they meet on the chip, where a whole slot would go by way of its
memory."""

LOWEST = jnp.finfo(jnp.float32).min


def write_pieces(
    cache: Array, new: Array, slots: Array, starts: Array, *, ring: bool, positions: int = 1
) -> Array:
    size, width = cache.shape[positions], new.shape[positions]
    paired = positions == 1 and cache.shape[2:] != new.shape[2:]
    for row in range(new.shape[0]):
        slot, start, written = slots[row : row + 1], starts[row], as_kept(new[row : row + 1], cache.dtype)
        if not ring:
            cache = with_row(cache, written, slot, start, positions, paired=paired)
            continue
        # Two blocks of the row's width: one that ends with the ring at the latest, and one at its beginning. What does
        # not fit in the first one is turned to its front, and belongs to the second; the rest of each stays as it is.
        place = start % size
        first = jnp.minimum(place, size - width)
        turned = jnp.roll(written, place - first, axis=positions)
        wraps = jnp.arange(width, dtype=jnp.int32) < place - first
        wraps = jnp.expand_dims(wraps, [other for other in range(cache.ndim) if other != positions])
        kept = rows_of(cache, slot, first, width, positions, paired=paired)
        cache = with_row(cache, jnp.where(wraps, kept, turned), slot, first, positions, paired=paired)
        start = jnp.int32(0)
        kept = rows_of(cache, slot, start, width, positions, paired=paired)
        cache = with_row(cache, jnp.where(wraps, turned, kept), slot, start, positions, paired=paired)
    return cache


def with_row(
    cache: Array, row: Array, slot: Array, start: Array, positions: int = 1, *, paired: bool
) -> Array:
    """The cache with `row` [1, ...] in a slot [1], from `start` on. What the slot that shares it has there is written
    back."""
    if paired:
        row = in_half(blocks(cache, slot // 2, start, row.shape[positions]), row, slot % 2)
        slot = slot // 2
    return lax.dynamic_update_slice(cache, row, beginning(cache, slot[0], start, positions))


def rows_of(
    cache: Array, slots: Array, start: Array, width: int, positions: int = 1, *, paired: bool
) -> Array:
    """Of each of the slots, `width` positions from `start` on."""
    if not paired:
        return blocks(cache, slots, start, width, positions)
    first, second = jnp.split(blocks(cache, slots // 2, start, width), 2, axis=-1)
    return jnp.where((slots % 2 == 0)[:, None, None], first, second)


def in_half(held: Array, new: Array, half: Array | int) -> Array:
    """Rows of two slots, [..., 2 * lanes], with `new` [..., lanes] in the place of the one that is `half`."""
    lanes = new.shape[-1]
    is_here = jnp.arange(2 * lanes, dtype=jnp.int32) // lanes == half
    return jnp.where(is_here, jnp.concatenate([new, new], axis=-1), held)


def beginning(cache: Array, slot: Array, start: Array, positions: int = 1) -> tuple[Array, ...]:
    return tuple({0: slot, positions: start}.get(place, jnp.int32(0)) for place in range(cache.ndim))


def blocks(cache: Array, slots: Array, start: Array, width: int, positions: int = 1) -> Array:
    """Of each of the slots, `width` positions from `start` on; they are in that dimension."""
    # As one gather: XLA leaves a cache that is split over chips where it is, which it does not for a slice.
    sizes = (1, *cache.shape[1:positions], width, *cache.shape[positions + 1 :])
    return jax.vmap(
        lambda slot: lax.dynamic_slice(cache, beginning(cache, slot, start, positions), sizes)[0]
    )(slots)


def as_kept(numbers: Array, dtype: Any) -> Array:
    """In the dtype of a cache. What is too large for fp8 becomes the largest, and not infinite or no number."""
    if dtype.itemsize == 1 and jnp.issubdtype(dtype, jnp.floating):
        largest = float(jnp.finfo(dtype).max)
        numbers = jnp.clip(numbers.astype(jnp.float32), -largest, largest)
    return numbers.astype(dtype)


def write_steps(cache: Array, new: Array, places: Array) -> Array:
    # One scatter of the rows of all slots. The indexed dimensions lead, so XLA needs no transposition, updates the
    # donated buffer in place and touches nothing else.
    slots = jnp.arange(cache.shape[0], dtype=jnp.int32)[:, None]
    if cache.shape[0] != new.shape[0]:
        # Two slots share a row, and write one after the other.
        for half in (0, 1):
            here = places[half::2]
            held = cache.at[slots, here].get(mode="fill", fill_value=0)
            written = in_half(held, as_kept(new[half::2], cache.dtype), half)
            cache = cache.at[slots, here].set(written, mode="drop")
        return cache
    return cache.at[slots, places].set(as_kept(new, cache.dtype), mode="drop")


def copy_slot(
    cache: Array, slot: Array, source: Array, is_kept: Array, *, positions: int, paired: bool
) -> Array:
    length = cache.shape[positions]
    block = min(COPIED_BLOCK, length)
    is_kept = jnp.expand_dims(is_kept, [other for other in range(cache.ndim) if other != positions])

    def copy(index: Array, cache: Array) -> Array:
        # The last block is moved back to end with the slot; what it has in common with the one before stays.
        start = jnp.minimum(index * block, length - block)
        # Where the slots are split over chips, this adds up one slot, and the update stays on its chip.
        held = rows_of(cache, source, start, block, positions, paired=paired)
        here = lax.dynamic_slice_in_dim(is_kept, start, block, positions)
        copied = jnp.where(here, held, jnp.zeros((), cache.dtype))
        return with_row(cache, copied, slot, start, positions, paired=paired)

    if block == length:
        return copy(jnp.int32(0), cache)
    return lax.fori_loop(
        0, -(-length // block), lambda index, cache: copy(index.astype(jnp.int32), cache), cache
    )


def attend_pieces(
    query: Array,
    keys: Array,
    values: Array,
    mask: Array,
    slots: Array,
    ends: Array,
    *optional: Array,
    names: Sequence[str],
    key_value_heads: int,
    softcap: float | None,
    paired: bool,
) -> Array:
    """A softmax that runs on from block to block (Milakov and Gimelshein, 2018): the scores of one block are all that
    lies in memory, and blocks behind the longest prompt are not read.
    """
    given = dict(zip(names, optional, strict=True))
    rows, heads, queries, head_dim = query.shape
    length = keys.shape[1]
    block = min(KEY_BLOCK, length)
    grouped = query.reshape(rows, key_value_heads, heads // key_value_heads, queries, head_dim)
    precision = lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
    value_dim = values.shape[3] if values.ndim == 4 else head_dim

    def piece(cache: Array, start: Array, dim: int) -> Array:
        """[rows, block, key_value_heads, dim] of the rows' slots."""
        found = rows_of(cache, slots, start, block, paired=paired)
        if found.ndim == 3:
            found = found[..., : key_value_heads * dim].reshape(rows, block, key_value_heads, dim)
        return found.astype(query.dtype)

    def scaled(numbers: Array, scales: Array | None, start: Array) -> Array:
        """Scores or weights [rows, key_value_heads, ..., block], times what keys or values lack."""
        if scales is None:
            return numbers
        found = blocks(scales, slots, start, block, positions=2).astype(jnp.float32)
        return numbers * found[:, :, None, None]

    def meet(index: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        highest, total, mixed = so_far
        # The last block is moved back to end with the slot; what it has in common with the one before is left out.
        start = jnp.minimum(index * block, length - block)
        is_new = start + jnp.arange(block, dtype=jnp.int32) >= index * block
        seen = lax.dynamic_slice_in_dim(mask, start, block, axis=3)[:, :, None] & is_new
        scores = jnp.einsum(
            "rhgqd,rkhd->rhgqk",
            grouped,
            piece(keys, start, head_dim),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        scores = scaled(scores, given.get("key_scales"), start)
        if softcap is not None:
            scores = jnp.tanh(scores / jnp.float32(softcap)) * jnp.float32(softcap)
        scores = jnp.where(seen, scores, LOWEST)
        higher = jnp.maximum(highest, scores.max(-1))
        weights = jnp.where(seen, jnp.exp(scores - higher[..., None]), jnp.float32(0))
        fading = jnp.exp(highest - higher)
        new = jnp.einsum(
            "rhgqk,rkhd->rhgqd",
            scaled(weights, given.get("value_scales"), start).astype(query.dtype),
            piece(values, start, value_dim),
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        return higher, total * fading + weights.sum(-1), mixed * fading[..., None] + new

    shape = grouped.shape[:4]
    nothing = (
        jnp.full(shape, LOWEST, jnp.float32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros((*shape, value_dim), jnp.float32),
    )
    count = (jnp.minimum(jnp.max(ends), length) + (block - 1)) // block
    if block == length:
        highest, total, mixed = meet(jnp.int32(0), nothing)
    else:
        highest, total, mixed = lax.fori_loop(jnp.int32(0), count.astype(jnp.int32), meet, nothing)
    if "sinks" in given:
        nowhere = given["sinks"].astype(jnp.float32).reshape(1, key_value_heads, -1, 1)
        higher = jnp.maximum(highest, nowhere)
        fading = jnp.exp(highest - higher)
        total, mixed = total * fading + jnp.exp(nowhere - higher), mixed * fading[..., None]
    weighed = (mixed / total[..., None]).astype(query.dtype)
    return weighed.reshape(rows, heads, queries, value_dim).transpose(0, 2, 1, 3)


KERNELS: dict[str, Callable[..., Any]] = {
    "write_pieces": write_pieces,
    "attend_pieces": attend_pieces,
    "write_steps": write_steps,
    "copy_slot": copy_slot,
    "experts": experts,
}

OF_CHIPS = ("experts",)
"""Kernels that are told, as `chips`, how many share what they are given."""
