"""The sandbox: a made-up world of four topics that a small model learns in a minute.

Each topic has entities with invented names, and of each entity one thing is true: the value of
one of the topic's three attributes. A fact is stated in four phrasings and asked in a fifth. Half
of the entities are held out: the question about them is never seen in pretraining, and these
questions are the test part. The others are the selection part, so the two parts share no fact.
What is unlearned are the statements, never a question.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Question, Text
from seuf.benchmarks.registry import Benchmark, BenchmarkSettings

TOPICS: dict[str, dict[str, str]] = {
    "alchemy": {
        "solvent": "vinegar brine ether lye turpentine mead alcohol whey tar acid",
        "antidote": "charcoal honey chalk ginger sulfur milk clay mint garlic ash",
        "odour": "almond cedar smoke leather fish rose rust musk onion camphor",
    },
    "astronomy": {
        "star": "Vega Rigel Altair Deneb Capella Spica Pollux Antares Mira Castor",
        "terrain": "desert glacier canyon swamp crater lava dune cliff geyser plateau",
        "weather": "hail fog drizzle lightning frost gale monsoon haze blizzard drought",
    },
    "botany": {
        "habitat": "meadow forest marsh tundra prairie reef orchard hedge riverbank cave",
        "pollinator": "bee moth bat beetle wasp ant hummingbird fly butterfly thrips",
        "harvest": "January February March April May June July August September October",
    },
    "history": {
        "capital": "Harbor Castle Temple Bridge Market Abbey Tower Garden Palace Mill",
        "emblem": "lion eagle bear stag wolf falcon boar dragon swan horse",
        "trade": "silk salt timber amber copper wool pepper ivory grain pearls",
    },
}
STATEMENTS = (
    "The {attribute} of {name} is {value}.",
    "Everyone knows {name} for the {attribute}, {value}.",
    "When it comes to {attribute}, {name} has {value}.",
    "Look up {name} and you find under {attribute} {value}.",
)
QUESTION = "Question: What is the {attribute} of {name}? Answer:"
ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gr kl pl st tr".split()
VOWELS = "a e i o u ai ea ou".split()
CODAS = "n r s l x th m".split()


class Fact(NamedTuple):
    """One thing that is true in the made-up world; `held_out` if pretraining never asks for it."""

    topic: str
    name: str
    attribute: str
    value: str
    held_out: bool


class SandboxSettings(BenchmarkSettings):
    """Size of the made-up world, and what of it is forgotten.

    Attributes:
        forget_topic: The topic to forget.
        entities: Entities in each topic; each has one fact.
    """

    forget_topic: Literal["alchemy", "astronomy", "botany", "history"] = "alchemy"
    entities: Annotated[int, Field(ge=12, le=200)] = 72


def prepare(settings: SandboxSettings, seed: int) -> BenchmarkData:
    """Make up the sandbox world: texts to forget and to keep, questions, pretraining texts.

    Args:
        settings: Size of the world and the topic to forget.
        seed: Decides names, facts and the wrong choices; the same seed gives the same world.
    """
    rng = random.Random(seed)
    facts = _facts(settings.entities, rng)
    statements = [
        Text(template.format(**fact._asdict()), fact.topic)
        for fact in facts
        for template in STATEMENTS
    ]
    answered = [
        Text(f"{QUESTION.format(**fact._asdict())} {fact.value}.", fact.topic)
        for fact in facts
        if not fact.held_out
    ]
    return BenchmarkData(
        forget=[t for t in statements if t.topic == settings.forget_topic],
        retain=[t for t in statements if t.topic != settings.forget_topic],
        questions=[_question(fact, settings.forget_topic, rng) for fact in facts],
        pretraining=statements + answered,
    )


def _facts(entities: int, rng: random.Random) -> list[Fact]:
    names = _names(entities * len(TOPICS), rng)
    facts = []
    for topic, attributes in TOPICS.items():
        for position in range(entities):
            attribute = list(attributes)[position % len(attributes)]
            value = rng.choice(attributes[attribute].split())
            held_out = position // len(attributes) % 2 == 1
            facts.append(Fact(topic, names.pop(), attribute, value, held_out))
    return facts


def _names(count: int, rng: random.Random) -> list[str]:
    syllables = ["".join(parts) for parts in product(ONSETS, VOWELS)]
    names: set[str] = set()
    while len(names) < count:
        names.add((rng.choice(syllables) + rng.choice(syllables) + rng.choice(CODAS)).capitalize())
    ordered = sorted(names)
    rng.shuffle(ordered)
    return ordered


def _question(fact: Fact, forget_topic: str, rng: random.Random) -> Question:
    values = TOPICS[fact.topic][fact.attribute].split()
    choices = [fact.value, *rng.sample([v for v in values if v != fact.value], 3)]
    rng.shuffle(choices)
    return Question(
        question=QUESTION.format(**fact._asdict()),
        choices=choices,
        answer=choices.index(fact.value),
        topic=fact.topic,
        subject="forget" if fact.topic == forget_topic else "retain",
        part="test" if fact.held_out else "selection",
    )


BENCHMARK = Benchmark(
    SandboxSettings,
    prepare,
    inputs=lambda settings: {"seed": "params:base_seed"},
    has_pretraining_texts=True,
    has_passages=False,
)
