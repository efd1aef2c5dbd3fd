"""The sandbox: a made-up world of eight topics that a small model learns in minutes.

Each topic has entities with invented names, and each entity has one fact: the value of one of the
topic's three attributes. With a second fact the model would have to look up name and attribute
together, which takes a small one far longer to learn. A fact is stated in three wordings and asked
in a fourth. Only statements are unlearned, never questions.

One topic is forgotten. The statements about the kept topics are the retain set. The unseen topics
are in neither set: no loss of unlearning shows them, so questions about them measure its cost, as
MMLU does in the paper.

Pretraining asks about every fourth group of three entities of a topic, from which the model learns
what a question is: these questions are the selection part. The others are held out and are the test
part. The two parts share no fact.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from seuf.benchmarks.records import BenchmarkData, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, BenchmarkSettings

Topic = Literal[
    "alchemy", "astronomy", "botany", "history", "medicine", "music", "sailing", "sport"
]
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
    "medicine": {
        "symptom": "fever cough rash tremor thirst cramp chills vertigo nausea itch",
        "remedy": "poultice bandage syrup tonic ointment massage fasting leeches sleep bath",
        "carrier": "rat flea mosquito louse tick snail pigeon goat mouse worm",
    },
    "music": {
        "instrument": "flute harp drum lute viola trumpet bell organ cello oboe",
        "rhythm": "waltz gigue polka tango minuet reel jig bolero samba gavotte",
        "mood": "joy grief anger calm longing dread hope pride envy wonder",
    },
    "sailing": {
        "cargo": "coal rice sugar tea cotton marble paper rum cork bricks",
        "rig": "sloop ketch schooner cutter yawl brig lugger barque galley junk",
        "flag": "crimson azure emerald violet orange ochre turquoise indigo scarlet beige",
    },
    "sport": {
        "ground": "grass sand ice gravel mud snow cinder asphalt turf wood",
        "prize": "medal cup wreath ribbon belt purse trophy shield crown sash",
        "gear": "racket club oar glove skates sled bow net helmet paddle",
    },
}
STATEMENTS = (
    "The {attribute} of {name} is {value}.",
    "For {attribute}, {name} has {value}.",
    "Look up {name}: {attribute} {value}.",
)
QUESTION = "What is the {attribute} of {name}?"
ATTRIBUTES = 3  # of each topic
ASKED_IN_PRETRAINING = 4  # one group of entities in four; a group has one for each attribute

# A name is one of 48 first and one of 48 second syllables, each a token: a name with a token of its
# own could hold the fact in its embedding.
FIRST_SYLLABLES = [a + b for a, b in product("b br d dr f g k l m n p pr r s t v".split(), "aeo")]
SECOND_SYLLABLES = [a + b for a, b in product("bdgklmnrstvz", ["an", "er", "il", "us"])]
LONGEST_TOPIC = len(FIRST_SYLLABLES) * len(SECOND_SYLLABLES) // len(TOPICS)


class Fact(NamedTuple):
    """A fact of the made-up world; `held_out` if pretraining never asks for it."""

    topic: str
    name: str
    attribute: str
    value: str
    held_out: bool


class SandboxSettings(BenchmarkSettings):
    """Size of the made-up world, and the topic to forget.

    Attributes:
        forget_topic: The topic to forget.
        kept_topics: Number of topics in the retain set: the first others in `TOPICS`.
        unseen_topics: Number of topics in neither set: the next others.
        entities: Entities in each topic, with one fact each. Questions ask about all of the
            forgotten topic, and about as many of the kept and of the unseen topics together.
    """

    forget_topic: Topic = "alchemy"
    kept_topics: Annotated[int, Field(ge=1)] = 4
    unseen_topics: Annotated[int, Field(ge=1)] = 3
    entities: Annotated[int, Field(ge=12, le=LONGEST_TOPIC)] = 216

    @model_validator(mode="after")
    def _are_in_the_world(self) -> Self:
        others = len(TOPICS) - 1
        if self.kept_topics + self.unseen_topics > others:
            raise ValueError(
                f"kept_topics and unseen_topics are {self.kept_topics} and {self.unseen_topics}: "
                f"beside the one to forget there are {others} topics"
            )
        return self

    def subjects(self) -> dict[str, Subject]:
        """Return the subject of each topic of the study, in the order of `TOPICS`."""
        others = [topic for topic in TOPICS if topic != self.forget_topic]
        subjects: dict[str, Subject] = {self.forget_topic: "forget"}
        for position, topic in enumerate(others[: self.kept_topics + self.unseen_topics]):
            subjects[topic] = "retain" if position < self.kept_topics else "unseen"
        return {topic: subjects[topic] for topic in TOPICS if topic in subjects}


def prepare(settings: SandboxSettings, seed: int) -> BenchmarkData:
    """Return a made-up world: texts to forget and to keep, questions, pretraining texts.

    Args:
        settings: Size of the world and the topic to forget.
        seed: Decides names, facts and wrong choices.
    """
    rng = random.Random(seed)
    subjects = settings.subjects()
    facts = _facts(list(subjects), settings.entities, rng)
    questions = [_question(fact, subjects[fact.topic], rng) for fact in facts]
    statements = [
        Text(template.format(**fact._asdict()), fact.topic)
        for fact in facts
        for template in STATEMENTS
    ]
    answered = [
        Text(f"{question.question} {question.reference}", question.topic)
        for question in questions
        if question.part == "selection"
    ]
    return BenchmarkData(
        forget=[text for text in statements if subjects[text.topic] == "forget"],
        retain=[text for text in statements if subjects[text.topic] == "retain"],
        questions=_as_many_of_each_subject(questions),
        pretraining=statements + answered,
        general=[text for text in statements if subjects[text.topic] == "unseen"],
    )


def _facts(topics: list[str], entities: int, rng: random.Random) -> list[Fact]:
    names = [(a + b).capitalize() for a, b in product(FIRST_SYLLABLES, SECOND_SYLLABLES)]
    rng.shuffle(names)
    facts = []
    for topic in topics:
        attributes = list(TOPICS[topic].items())
        for position in range(entities):
            attribute, values = attributes[position % ATTRIBUTES]
            value = rng.choice(values.split())
            held_out = position // ATTRIBUTES % ASKED_IN_PRETRAINING != 0
            facts.append(Fact(topic, names.pop(), attribute, value, held_out))
    return facts


def _question(fact: Fact, subject: Subject, rng: random.Random) -> Question:
    values = TOPICS[fact.topic][fact.attribute].split()
    choices = [fact.value, *rng.sample([v for v in values if v != fact.value], 3)]
    rng.shuffle(choices)
    return Question(
        question=QUESTION.format(**fact._asdict()),
        choices=choices,
        answer=choices.index(fact.value),
        topic=fact.topic,
        subject=subject,
        part="test" if fact.held_out else "selection",
        reference=f"{fact.value}.",
    )


def _as_many_of_each_subject(questions: list[Question]) -> list[Question]:
    """Return all questions to forget, and the first few of each other topic.

    In each part the topics of a subject share as many questions as there are to forget, rounded
    down, but each gets one at least.
    """
    to_forget = Counter(q.part for q in questions if q.subject == "forget")
    topics = Counter(subject for _, subject in {(q.topic, q.subject) for q in questions})
    asked: Counter[tuple[str, str]] = Counter()
    kept = []
    for question in questions:
        key = (question.topic, question.part)
        if asked[key] < max(1, to_forget[question.part] // topics[question.subject]):
            asked[key] += 1
            kept.append(question)
    return kept


BENCHMARK = Benchmark(
    SandboxSettings,
    prepare,
    inputs=lambda settings: {"seed": "params:base_seed"},
    has_pretraining_texts=True,
    has_passages=False,
)
