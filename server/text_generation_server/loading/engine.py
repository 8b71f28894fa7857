"""From a checkpoint directory to a running engine.

    files -> description -> programs, recorded or from the cache, compiled or from the cache
          -> what all of it needs of the device's memory -> weights -> engine

So nothing is read of the weights before it is known that they fit, and a start for which everything is in the cache
imports neither torch nor transformers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from text_generation_server.engine import catalogue
from text_generation_server.engine.cache_dtype import CacheDtype
from text_generation_server.engine.contract import EngineInfo, WarmupProgress
from text_generation_server.engine.engine import StaticBatchEngine
from text_generation_server.engine.layout import CacheLayout
from text_generation_server.engine.state import BatchShape, initial_rows
from text_generation_server.errors import InvalidSettingError, UnsupportedModelError, one_line
from text_generation_server.loading.chips import ModelArrays, check_slots
from text_generation_server.loading.keys import code_key, model_key, text_key
from text_generation_server.loading.layers import LayerReader
from text_generation_server.loading.weights import check_tensors, load_weights
from text_generation_server.lowering.process import LoweringProcess
from text_generation_server.lowering.request import Lowering, ProgramOptions
from text_generation_server.model.adapters.reading import read_adapter
from text_generation_server.model.adapters.stacking import check_fit, ranks, stack_adapters
from text_generation_server.model.checkpoint import Checkpoint
from text_generation_server.model.description import ModelDescription, ModelSource, TextFacts
from text_generation_server.model.memory import LARGEST_BATCH, MemoryNeed
from text_generation_server.model.quantisation.choice import scheme_to_make
from text_generation_server.model.quantisation.stored import stored_layers
from text_generation_server.runtime.cache import ProgramCache
from text_generation_server.runtime.compiler import Compiler
from text_generation_server.runtime.executable import Executable
from text_generation_server.runtime.mesh import Buffer, DeviceMesh, open_mesh
from text_generation_server.sampling.parameters import WatermarkStrength
from text_generation_server.settings import (
    ACCELERATOR_CHUNK,
    CPU_BATCH_SIZE,
    CPU_CHUNK,
    DEFAULT_HANG_SECONDS,
    MOST_STEPS,
)
from text_generation_server.telemetry import log_progress
from text_generation_server.text.tokenizer import ModelTokenizer

DEFAULT_WATERMARK = WatermarkStrength()

DEFAULT_MAX_LENGTH = 2048

LOOPED_WEIGHTS = 2 * 2**30
"""Bytes of weights on each chip, with which a step of an accelerator may be shorter than the host's work on it: chips
read 0.8 to 2.8 GB of them in a millisecond."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is asked to be.

    Attributes:
        batch_size: None for the largest that fits, on an accelerator, and CPU_BATCH_SIZE on a CPU.
        max_length: tokens per slot; None for what the model allows, up to DEFAULT_MAX_LENGTH.
        dtype: "float16", "bfloat16" or "float32"; None for the device's own: float32 on a CPU, else bfloat16.
        scores_prompts: be ready to give the logprobs of prompts.
        strength: of watermarks.
        quantize: in what linear layers are kept, as --quantize has it; None: as they come.
        adapters: name, as requests have it, and directory of each LoRA adapter.
        skip_warmup: compile each program when it is first needed, for debugging.
        hang_seconds: after so long a call of the device counts as hanging.
        prefill_chunk: tokens of the largest piece of a prompt, one of CHUNKS; None for CPU_CHUNK on a CPU, else
            ACCELERATOR_CHUNK.
        speculate: tokens of each request that one step may verify; 0: none.
        steps: that the device may take without the host, see `batching.steps_ahead`; None: MOST_STEPS on an accelerator
            with at most LOOPED_WEIGHTS, else 0.
        cache_dtype: of keys and values; None: `dtype`.
        layout: of the cache; None for what the device wants.
        chips: over how many the model is split; None for all of this host.
    """

    batch_size: int | None = None
    max_length: int | None = None
    dtype: str | None = None
    quantize: str | None = None
    scores_prompts: bool = False
    strength: WatermarkStrength = DEFAULT_WATERMARK
    adapters: Sequence[tuple[str, Path]] = ()
    skip_warmup: bool = False
    hang_seconds: float = DEFAULT_HANG_SECONDS
    prefill_chunk: int | None = None
    speculate: int = 0
    steps: int | None = None
    cache_dtype: CacheDtype | None = None
    layout: CacheLayout | None = None
    chips: int | None = None


class ProgramsOnDemand(Mapping[str, Executable]):
    """Programs that are compiled when they are first needed: debugging only, see `EngineOptions.skip_warmup`."""

    def __init__(self, compiler: Compiler, names: Sequence[str], weights: Mapping[str, Buffer]) -> None:
        self._compiler = compiler
        self._names = names
        self._weights = weights
        self._ready: dict[str, Executable] = {}

    def __getitem__(self, name: str) -> Executable:
        if name not in self._ready:
            self._ready |= self._compiler.prepare([name], log_progress)
            self._ready[name].bind(self._weights)
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class LoadedModel:
    """What the generator needs of a model."""

    engine: StaticBatchEngine
    tokenizer: ModelTokenizer
    eos_token_ids: frozenset[int]


def load_engine(
    directory: Path,
    options: EngineOptions,
    compile_cache: Path | None,
    progress: Callable[[WarmupProgress], None] = log_progress,
) -> LoadedModel:
    """A checkpoint's engine and tokenizer, on this host's device.

    Args:
        compile_cache: a directory for what is recorded and compiled; None keeps nothing.
        progress: called for each program that is ready; by default the log gets a line.

    Raises:
        UnsupportedModelError: the checkpoint cannot be served.
        InvalidSettingError: an adapter cannot be served, there is no device, or it has too little memory.
    """
    cache, lowering = ProgramCache(compile_cache), LoweringProcess()
    try:
        text = read_text(directory, cache, lowering)
        engine = EngineLoader(directory, options, cache, lowering=lowering).load(progress)
    finally:
        lowering.close()
    return LoadedModel(engine, ModelTokenizer.from_json(text.tokenizer), frozenset(text.eos_token_ids))


def read_text(directory: Path, cache: ProgramCache, lowering: Lowering) -> TextFacts:
    """From the cache, or by transformers. Raises UnsupportedModelError."""
    key = text_key(directory)
    payload = cache.get(key)
    if payload is not None:
        try:
            return TextFacts.from_json(payload.decode())
        except (ValueError, KeyError) as error:
            logger.warning("Compile cache: the tokenizer cannot be read: {!r}", error)
    text = lowering.read_text(directory)
    cache.put(key, text.to_json().encode())
    return text


class EngineLoader:
    """Loads one engine. The steps of `load` are methods, so that tools can take some of them."""

    def __init__(
        self,
        directory: Path,
        options: EngineOptions,
        cache: ProgramCache,
        mesh: DeviceMesh | None = None,
        lowering: Lowering | None = None,
    ) -> None:
        """
        Args:
            mesh: None for `options.chips` of this host's devices.
            lowering: None for a process of its own.

        Raises:
            UnsupportedModelError: there are no weights, or they cannot be read.
            InvalidSettingError: an adapter cannot be served, there is no device, or the chips do not divide the model.
        """
        self.options = options
        self.mesh = mesh or open_mesh(options.chips)
        self.dtype = options.dtype or ("float32" if self.mesh.is_cpu else "bfloat16")
        self._cache = cache
        self._lowering = lowering or LoweringProcess()
        self._adapters = [read_adapter(name, path) for name, path in options.adapters]
        self.checkpoint = Checkpoint(directory)
        self._stored = stored_layers(self.checkpoint)
        self.source = ModelSource(
            directory=directory,
            tensors=self._stored.tensors(self.checkpoint),
            dtype=self.dtype,
            transposed=self.mesh.is_cpu,
            own_head=self.checkpoint.has_own_head(),
            adapter_ranks=ranks(self._adapters),
            made=scheme_to_make(options.quantize, self._stored),
            shared=self.mesh.size > 1,
            stored={name: layer.scheme for name, layer in self._stored.items()},
        )
        self._model_key = model_key(self.source)
        self.description = self._described()
        check_tensors(self.description, self.checkpoint, self._stored)
        check_fit(self.description, self.checkpoint, self._adapters, self.dtype)
        self._stacks = stack_adapters(self._adapters, self.dtype)
        self._layout = options.layout or (CacheLayout.HEADS if self.mesh.is_cpu else CacheLayout.LANES)
        self._arrays = ModelArrays(self.description, self._layout, self._stacks)
        self.mesh = self.mesh.first(self._arrays.chosen(options.chips, self.mesh.size))
        self.sharding = self._arrays.sharding(self.mesh.size)

    def load(
        self, progress: Callable[[WarmupProgress], None] = log_progress, most_slots: int = LARGEST_BATCH
    ) -> StaticBatchEngine:
        """The engine, with all programs compiled unless that is to be skipped.

        `most_slots`: bound of a batch size that nobody chose.

        Raises:
            UnsupportedModelError: the checkpoint cannot be served, or not with this length.
            InvalidSettingError: weights, cache and programs do not fit in memory together.
        """
        options, free = self.options, self.mesh.free_memory()
        length = resolve_max_length(self.description.positions, options.max_length)
        need = self.memory_need()
        batch_size = options.batch_size or self._chosen_batch(need, length, free, most_slots)
        check_slots(self.sharding, batch_size)
        self._require_memory(need, batch_size, length, free)
        shape = self.shape(batch_size, length)
        names = catalogue.names(shape, scores_prompts=options.scores_prompts)
        compiler = self.compiler(shape)
        executables: dict[str, Executable] = {}
        if not options.skip_warmup:
            logger.info("Preparing {} programs for batch size {}, length {}", len(names), batch_size, length)
            executables = compiler.prepare(names, progress)
            need = need.with_programs(program_bytes(executables.values()))
            if options.batch_size is None and free is not None and not need.fits(free, batch_size, length):
                # The guess before compiling was too low. What programs need hardly depends on the batch.
                logger.info(
                    "A batch of {} does not fit beside the programs, trying a smaller one", batch_size
                )
                smaller = min(batch_size - need.multiple, need.largest_batch(free, length))
                if smaller >= 1:
                    return self.load(progress, smaller)
            self._require_memory(need, batch_size, length, free)
            # torch and the model's description take a gigabyte, which the weights may need.
            self._lowering.close()
        try:
            weights = load_weights(self.description, self.checkpoint, self.mesh, self.sharding, self.layers())
            for layer, stack in self._stacks.items():
                weights |= {
                    name: self.mesh.send(array, self.sharding.weight(name, array.shape))
                    for name, array in stack.ordered(self.description.modules[layer].fused)
                    .named(layer)
                    .items()
                }
            state = {
                name: self.mesh.zeros(name, spec.shape, spec.dtype, self.sharding.array(name, spec.shape))
                for name, spec in shape.cache().items()
            }
            state |= {
                name: self.mesh.send(array, self.sharding.array(name, array.shape))
                for name, array in initial_rows(shape).items()
            }
        except (RuntimeError, MemoryError) as error:
            raise InvalidSettingError(
                f"{need.refusal(free, batch_size, length)}: {one_line(error)}"
            ) from error
        for executable in executables.values():
            executable.bind(weights)
        self._log(shape, need)
        return StaticBatchEngine(
            self.info(shape),
            shape,
            self.sharding,
            state,
            self.mesh,
            ProgramsOnDemand(compiler, names, weights) if options.skip_warmup else executables,
            compiler.compiled,
            options.hang_seconds,
        )

    def shape(self, batch_size: int, length: int) -> BatchShape:
        """The static batch."""
        return self.description.batch_shape(
            batch_size,
            length,
            self._layout,
            self.dtype,
            self.options.prefill_chunk or (CPU_CHUNK if self.mesh.is_cpu else ACCELERATOR_CHUNK),
            cache_dtype=self.options.cache_dtype,
            adapters=bool(self._adapters),
            drafts=self.options.speculate,
            chips=self.mesh.size,
            steps=self._steps(),
        )

    def info(self, shape: BatchShape) -> EngineInfo:
        return EngineInfo(
            batch_size=shape.slots,
            max_length=shape.length,
            vocab_size=shape.vocabulary,
            dtype=self.dtype,
            device_type="xla",
            scores_prompts=self.options.scores_prompts,
            adapters=tuple(adapter.name for adapter in self._adapters),
            rotary=self.description.rotary,
            ring=shape.ring,
            drafts=shape.drafts,
            steps=shape.steps,
        )

    def compiler(self, shape: BatchShape) -> Compiler:
        exact = self.dtype == "float32" and not self.mesh.is_cpu
        options = ProgramOptions(shape, self.options.strength, exact)
        return Compiler(
            self._lowering, options, self._model_key, code_key(), self._cache, self.mesh, self.sharding
        )

    def memory_need(self) -> MemoryNeed:
        """What weights and batch take on each device, from headers alone."""
        return self._arrays.memory_need(self.sharding, self.shape(self.options.batch_size or 2, 1))

    def layers(self) -> LayerReader:
        """Of what comes in fewer bits, or is made so."""
        return LayerReader(self._stored, self.source.made)

    def _steps(self) -> int:
        """That the device may take without the host."""
        if self.options.steps is not None:
            return self.options.steps if self.options.steps > 1 else 0
        is_short = not self.mesh.is_cpu and self._arrays.weight_bytes(self.sharding) <= LOOPED_WEIGHTS
        return MOST_STEPS if is_short else 0

    def _described(self) -> ModelDescription:
        payload = self._cache.get(self._model_key)
        if payload is not None:
            try:
                description = ModelDescription.from_json(payload.decode())
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("Compile cache: the description of the model cannot be read: {!r}", error)
            else:
                self._lowering.resume(self.source)
                return description
        description = self._lowering.describe(self.source)
        self._cache.put(self._model_key, description.to_json().encode())
        return description

    def _chosen_batch(self, need: MemoryNeed, length: int, free: int | None, most: int) -> int:
        if self.mesh.is_cpu or free is None:
            return -(-CPU_BATCH_SIZE // need.multiple) * need.multiple
        batch_size = min(most, need.largest_batch(free, length)) // need.multiple * need.multiple
        logger.info("HF_BATCH_SIZE is not set: {} slots of {} tokens fit", batch_size, length)
        return max(need.multiple, batch_size)

    def _require_memory(self, need: MemoryNeed, batch_size: int, length: int, free: int | None) -> None:
        if free is not None and not need.fits(free, batch_size, length):
            raise InvalidSettingError(need.refusal(free, batch_size, length))

    def _log(self, shape: BatchShape, need: MemoryNeed) -> None:
        for adapter in self._adapters:
            logger.info(
                f"LoRA adapter {adapter.name}: rank {adapter.largest_rank}, {len(adapter.updates)} layers"
            )
        logger.info(
            f"Loaded {self.description.model_type} in {self.dtype} on {self.mesh.kind}: batch size {shape.slots}, "
            f"sequence length {shape.length}, KV cache {need.cache(shape.slots, shape.length) / 2**20:.0f} MiB"
            + (f" on each of {self.mesh.size} chips" if self.mesh.size > 1 else "")
        )


def resolve_max_length(positions: int, max_length: int | None) -> int:
    """The length of a slot: as asked, or what the model allows up to a default.

    Raises:
        UnsupportedModelError: the model has no positions that far.
    """
    if max_length is None:
        return min(DEFAULT_MAX_LENGTH, positions)
    if max_length > positions:
        raise UnsupportedModelError(
            f"HF_SEQUENCE_LENGTH / MAX_TOTAL_TOKENS is {max_length}, but the model goes as far as "
            f"{positions} (max_position_embeddings of its config.json); use {positions} or less"
        )
    return max_length


def program_bytes(executables: Iterable[Executable]) -> int:
    """Code of all, and the largest temporaries and results of one: programs run one after the other."""
    memories = [executable.memory for executable in executables]
    transient = max((m.temporaries + max(0, m.results - m.aliased) for m in memories), default=0)
    code: int = sum(m.code for m in memories)
    return code + transient
