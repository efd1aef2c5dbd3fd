"""Settings of a study's base model: trained from scratch, taken as it is, fine-tuned, upcycled."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from seuf.inputs import Settings

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class PretrainingSettings(Settings):
    """A small qwen2_moe, trained from scratch on the benchmark's texts.

    Attributes:
        vocabulary: Tokens of the byte-pair encoding trained on the texts, 256 bytes and the end
            among them.
        hidden_size: d.
        layers: Decoder layers, all of them MoE.
        heads: Attention heads.
        experts: E, in each layer.
        top_k: Experts chosen for each token.
        expert_width: m.
        shared_expert_width: Width of the expert that every token passes.
        balance_weight: Weight of the load-balancing loss.
        initializer_range: Standard deviation of the weights before training.
        steps: Updates; with `must_know` at most so many before the rate falls.
        batch_size: Samples in an update.
        length: Tokens in a sample.
        learning_rate: Peak of the schedule: a linear rise, then a linear fall. With `must_know` it
            stays there until enough is known, and then falls over `cooldown` steps.
        warmup: Steps of the rise.
        must_know: Share of each topic's selection questions that must be answered, whole and word
            for word, before training ends; null trains for `steps` and asks nothing.
        look_every: Steps between two times that the questions are asked.
        cooldown: Steps of the fall, after which the questions are asked once more.
        answers_only: Learn what follows a text's prompt, as TOFU's own models do, not the prompt.
        threads: CPU threads; the number decides the last bits of every sum.
    """

    source: Literal["pretrain"] = "pretrain"
    vocabulary: Annotated[int, Field(ge=257)] = 1024
    hidden_size: Count = 128
    layers: Count = 3
    heads: Count = 4
    experts: Count = 8
    top_k: Count = 2
    expert_width: Count = 256
    shared_expert_width: Count = 32
    balance_weight: Annotated[float, Field(ge=0)] = 0.001
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    steps: Count = 500
    batch_size: Count = 16
    length: Count = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warmup: Count = 50
    must_know: Share | None = None
    look_every: Count = 50
    cooldown: Annotated[int, Field(ge=0)] = 100
    answers_only: bool = False
    threads: Count = 1


class ExistingModelSettings(Settings):
    """Which model, and where it runs.

    Attributes:
        path: Folder, or hub id such as `Qwen/Qwen1.5-MoE-A2.7B-Chat`.
        revision: Commit or tag of a hub id, so that the same model is read tomorrow.
        dtype: Name of a torch dtype; `auto` takes the checkpoint's own.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        device_map: Spread the model over devices, CPU memory (`cpu`) and disk (`disk`), as
            accelerate does: `auto`, or a device for each module by name. `device` is then not used.
        max_memory: With `device_map: auto`, what each device may hold: `{"0": 60GB, cpu: 90GB}`.
    """

    path: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    device_map: str | dict[str, str | int] | None = None
    max_memory: dict[str, str] = {}


class ExternalModelSettings(ExistingModelSettings):
    """A model that exists: never rewritten, only read.

    Attributes:
        offload_folder: Where what goes to disk is put.
        compile: Compile what lies between the routers with torch.compile: on a GPU nearly twice
            as fast after some seconds of compiling, with another rounding. Needs a C compiler.
        trust_remote_code: Run Python files that come with the model, as models need that
            transformers does not know. Pin the revision, and read them first.
        must_know: Share of each topic's questions that it must answer, whole and word for word;
            null asks nothing.
    """

    source: Literal["external"] = "external"
    offload_folder: str | None = None
    compile: bool = False
    trust_remote_code: bool = False
    must_know: Share | None = None

    @model_validator(mode="after")
    def _is_compiled_in_one_place(self) -> Self:
        if self.compile and self.device_map is not None:
            raise ValueError("a model with a device_map cannot be compiled: its weights move")
        return self


class FinetuningSettings(ExistingModelSettings):
    """A model that exists, taught the benchmark's texts by LoRA and written as a new checkpoint.

    All of it stays on its devices while it is taught, and it needs no code of its own.

    Attributes:
        steps: Updates.
        batch_size: Samples in an update.
        length: Tokens in a sample.
        learning_rate: Peak of the schedule: a linear rise, then a linear fall.
        warmup: Steps of the rise.
        rank: r of the adapters.
        answers_only: Learn what follows a text's prompt, as TOFU's own models do, not the prompt.
        threads: CPU threads; the number decides the last bits of every sum.
    """

    source: Literal["finetune"] = "finetune"
    steps: Count = 500
    batch_size: Count = 8
    length: Count = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Count = 50
    rank: Count = 8
    answers_only: bool = False
    threads: Count = 1

    @property
    def taught(self) -> ExternalModelSettings:
        """The model that is taught."""
        return ExternalModelSettings(
            **self.model_dump(include=set(ExistingModelSettings.model_fields))
        )


class SamplingSettings(Settings):
    """What the dense model says when it is asked nothing in particular.

    Attributes:
        texts: Texts that the model is distilled on.
        apart: Further ones that nothing is trained on, for the general loss.
        max_new_tokens: Tokens of a text, beside its opening.
        batch_size: Texts at once, or as many as fit in memory.
        seed: Decides openings and what is drawn.
    """

    texts: Count = 2048
    apart: Count = 128
    max_new_tokens: Count = 200
    batch_size: Count = 1024
    seed: int = 0


class UpcyclingSettings(ExistingModelSettings):
    """A dense model made a mixture of experts, distilled from itself and taught the benchmark.

    See `seuf.moe.upcycling` and `seuf.moe.distillation`.

    Attributes:
        gguf_file: Name of a GGUF file in the folder or repository; needs the package `gguf`.
        experts: E, in each layer; a multiple of `granularity`.
        top_k: Experts chosen for each token; a multiple of `granularity`, so that a token takes
            whole copies of the dense layer at first.
        granularity: Parts of equal width that the neurons of a dense layer are cut into.
        redrawn: Share of each expert's neurons that are drawn anew.
        router_range: Standard deviation of the router's rows, alike within a copy.
        router_noise: Standard deviation of each row's own part, in `router_range`.
        sampling: What the dense model is asked to say.
        steps: Updates.
        batch_size: Samples of general text in an update: the dense model's own, and those kept.
        length: Tokens in such a sample.
        taught_batch_size: Texts of the benchmark in an update.
        taught_length: Tokens of one at most.
        learning_rate: Peak of the schedule: a linear rise, then half a cosine down to a twentieth.
        warmup: Steps of the rise.
        balance_weight: Weight of the load-balancing loss.
        activation_checkpointing: Compute activations twice instead of keeping them: less memory, a
            third more time.
        threads: CPU threads; the number decides the last bits of every sum.
    """

    source: Literal["upcycle"] = "upcycle"
    path: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    gguf_file: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    experts: Count = 32
    top_k: Count = 4
    granularity: Count = 4
    redrawn: Annotated[float, Field(ge=0, le=1)] = 0.3
    router_range: Annotated[float, Field(gt=0)] = 0.02
    router_noise: Annotated[float, Field(ge=0)] = 0.1
    sampling: SamplingSettings = SamplingSettings()
    steps: Count = 300
    batch_size: Count = 32
    length: Count = 512
    taught_batch_size: Count = 256
    taught_length: Count = 160
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    warmup: Count = 30
    balance_weight: Annotated[float, Field(ge=0)] = 0.01
    activation_checkpointing: bool = False
    threads: Count = 1

    @model_validator(mode="after")
    def _experts_are_whole_copies(self) -> Self:
        for name in ("experts", "top_k"):
            if getattr(self, name) % self.granularity:
                raise ValueError(f"{name} must be a multiple of granularity, {self.granularity}")
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, of {self.experts} experts")
        if self.device_map is not None:
            raise ValueError("a model that is upcycled is trained on one device: no device_map")
        return self
