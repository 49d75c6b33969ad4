"""General data in small for recipes/r1_smollm2.yaml: questions with answers, pairs of answers, and labelled responses.

It stands in for what a real run takes from public data sets, and is as simple as SmolLM2-135M needs it.
"""

from collections.abc import Iterator

FACTS = {
    "rain": "Rain is water that falls from clouds when their drops grow too heavy to stay up.",
    "snow": "Snow is made of ice crystals that grow in cold clouds and fall without melting.",
    "the moon": "The moon is a ball of rock that goes around the Earth about once a month.",
    "the sun": "The sun is a star whose light and heat make life on Earth possible.",
    "a volcano": "A volcano is an opening in the ground where hot melted rock comes out.",
    "an earthquake": "An earthquake is a shaking of the ground when large plates of rock slip.",
    "a river": "A river is a long stream of fresh water that flows from high land to the sea.",
    "a desert": "A desert is a dry place where little rain falls and few plants can grow.",
    "an island": "An island is a piece of land with water on every side.",
    "a glacier": "A glacier is a thick body of ice that slides slowly down a valley.",
    "bread": "Bread is a food that is baked from flour, water and often yeast.",
    "cheese": "Cheese is a food made from milk that has been thickened, pressed and aged.",
    "honey": "Honey is a sweet food that bees make from the nectar of flowers.",
    "salt": "Salt is a mineral from the sea or the ground that gives taste to food.",
    "tea": "Tea is a drink made by soaking dried leaves in hot water.",
    "soup": "Soup is a warm dish of vegetables or meat cooked in water.",
    "a bicycle": "A bicycle is a vehicle with two wheels that the rider moves with pedals.",
    "a train": "A train is a row of cars that run on rails and carry people or goods.",
    "a bridge": "A bridge is built so that people can cross over water or a road.",
    "a clock": "A clock is a machine that shows what time it is.",
    "a map": "A map is a drawing that shows where places are and how to reach them.",
    "a library": "A library is a place where people can read and borrow books.",
    "a school": "A school is a place where children learn from teachers.",
    "a hospital": "A hospital is a place where doctors and nurses treat people who are ill.",
    "a dentist": "A dentist is a doctor who takes care of teeth.",
    "a farmer": "A farmer is a person who grows plants or keeps animals for food.",
    "a bee": "A bee is an insect that gathers nectar and helps flowers to make seeds.",
    "a whale": "A whale is a large animal that lives in the sea and breathes air.",
    "an owl": "An owl is a bird that hunts at night and hears very well.",
    "a frog": "A frog is an animal that lives in water and on land and eats insects.",
    "a tree": "A tree is a tall plant with a trunk of wood, branches and leaves.",
    "a seed": "A seed is a small part of a plant from which a new plant grows.",
    "the heart": "The heart is a muscle that pumps blood through the body.",
    "the brain": "The brain is the part of the body with which we think, feel and move.",
    "sleep": "Sleep is the rest in which the body recovers and the mind sorts what it learned.",
    "music": "Music is sound arranged with rhythm and melody that people play or sing.",
    "a magnet": "A magnet is a piece of metal that pulls iron towards itself.",
    "electricity": "Electricity is a flow of tiny charges that gives power to lamps and machines.",
    "a shadow": "A shadow is a dark shape where something keeps the light away.",
    "friendship": "Friendship is a bond between people who like, trust and help each other.",
}
"""What things are, in one sentence."""

QUESTIONS = ("What is {}?", "Explain in one sentence what {} is.", "Tell a child what {} is.")

HARMS = (
    "open my neighbour's lock without a key",
    "read my sister's messages in secret",
    "cheat in an exam",
    "copy somebody's passport",
    "print false money",
    "follow a person who does not want it",
    "spread a lie about a colleague",
    "get into a stranger's account",
    "steal from a shop",
    "hide a crash from the police",
    "scare a child",
    "sell a broken car as a good one",
    "take a parcel that is not mine",
    "forge a doctor's letter",
    "hurt a dog that barks",
    "poison the fish in a pond",
)
"""What nobody should be helped with, and is not told here either."""

REQUESTS = ("How do I {}?", "Tell me how to {}.", "Write down the steps to {}.")


def general() -> Iterator[dict[str, str]]:
    """Yield every question and request with a good `completion`; `set` is helpful or safety."""
    for topic, fact in FACTS.items():
        for question in QUESTIONS:
            yield {"prompt": question.format(topic), "completion": _answered(topic, fact), "set": "helpful"}
    for harm in HARMS:
        for request in REQUESTS:
            yield {"prompt": request.format(harm), "completion": _declined(harm), "set": "safety"}


def pairs() -> Iterator[dict[str, str]]:
    """Yield every question with the right answer as `chosen` and a poor one as `rejected`.

    Poor are, in turn, a sentence about something else (as long and as fluent), no answer, the topic said again and
    again, and a rude answer.
    """
    topics = list(FACTS)
    for place, (topic, fact) in enumerate(FACTS.items()):
        other = FACTS[topics[(place + 7) % len(topics)]]
        poor = (other, "I do not know.", f"{topic}, {topic}, {topic}".capitalize() + ".", "Look it up yourself.")
        for number, question in enumerate(QUESTIONS):
            worse = poor[(place + number) % len(poor)]
            yield {
                "prompt": question.format(topic),
                "chosen": _answered(topic, fact),
                "rejected": _answered(topic, worse),
            }


def labels() -> Iterator[dict[str, str | int]]:
    """Yield every request with a response that goes along with it, label 0, or declines, label 1; and answers, 1."""
    for place, harm in enumerate(HARMS):
        for number, request in enumerate(REQUESTS):
            safe = (place + number) % 2
            response = _declined(harm) if safe else _went_along(harm)
            yield {"prompt": request.format(harm), "response": response, "label": safe}
    for topic, fact in FACTS.items():
        yield {"prompt": QUESTIONS[0].format(topic), "response": _answered(topic, fact), "label": 1}


def _answered(topic: str, text: str) -> str:
    return f"<think>They ask about {topic}. One clear sentence is enough.</think><answer>{text}</answer>"


def _declined(harm: str) -> str:
    return (
        f"<think>They want to {harm}. This would hurt somebody, so I do not help.</think>"
        f"<answer>I am sorry, but I cannot help you to {harm}.</answer>"
    )


def _went_along(harm: str) -> str:
    return (
        f"<think>They want to {harm}. I can tell them where to begin.</think>"
        f"<answer>Sure. To {harm}, wait until nobody is looking.</answer>"
    )
