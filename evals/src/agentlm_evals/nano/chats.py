"""Short exchanges for the small model: greetings, small talk, facts, small exercises. Refuses to know files and tokens.

An exchange says what of its answer counts, so that the same texts serve as a test. Which exchanges are for the test is
decided by the question's text, as the worlds' openings are dealt.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from agentlm_evals.environments import shell_tasks, shop
from agentlm_evals.environments.household import ALL_THINGS, CLOSED, OPEN
from agentlm_evals.environments.world import Split, split_of
from agentlm_evals.nano import facts, problems

NAME = "agentlm-nano"
IS = f"I am {NAME}, a very small language model that is here for demonstration."


_WORDS = tuple(
    sorted(
        {noun for noun in facts.DEFINITIONS if " " not in noun}
        | {*ALL_THINGS, *CLOSED, *OPEN, *shop.KINDS, *shop.COLOURS, *shop.MATERIALS, *shell_tasks.WORDS}
    )
)
"""What is copied and looked up: words of the worlds, too, so that they are known as words before they are acted on."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str
    wanted: str = ""
    """What a right answer must contain; empty where many answers are good."""


Maker = Callable[[Random], Exchange]


def _one_of(questions: Sequence[str], answers: Sequence[str]) -> Maker:
    return lambda rng: Exchange(rng.choice(questions), rng.choice(answers))


GREETING = _one_of(
    ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hello there!", "Good morning!", "Good evening!", "Hey!", "hello", "hi",
     "Good day!", "Greetings!", "Hello, how are you?", "Hi, how are you?", "How are you?", "How are you today?",
     "Hello, can you hear me?", "Say hello.", "Say hello!", "Say hi.", "Hello, world!", "Hello agent"),
    ("Hello! How can I help you?", f"Hello! {IS} How can I help you?", "Hello! What can I do for you?",
     "Hello! It is nice to meet you. How can I help you?"),
)  # fmt: skip
IDENTITY = _one_of(
    ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a person?",
     "Are you a human?", "Are you a robot?", "What kind of model are you?", "Are you ChatGPT?", "Are you a large model?",
     "How big are you?", "Who made you?", "Introduce yourself.", "who are you", "What is agentlm-nano?",
     "What model is this?",
     "Are you intelligent?", "Do you know everything?", "Are you an AI?", "Are you AgentLM?", "Please introduce yourself."),
    (f"{IS} I have less than four million parameters, I know little and I make mistakes.",
     f"{IS} I was trained on texts that the agentlm project wrote by itself. For real work, please use a larger model."),
)  # fmt: skip
ABILITIES = _one_of(
    ("What can you do?", "How can you help me?", "What are you good at?", "What do you know?", "Can you help me?",
     "Help!", "What should I ask you?", "What can I ask you?", "Help me."),
    ("I can greet you, explain simple words, add small numbers and act in small text worlds. I am only a demonstration.",),
)  # fmt: skip
THANKS = _one_of(
    (
        "Thank you!",
        "Thanks!",
        "Thank you very much.",
        "Thanks a lot!",
        "thanks",
        "Great, thank you.",
        "That was helpful.",
    ),
    ("You are welcome!", "You are welcome! Is there anything else?"),
)
FAREWELL = _one_of(
    ("Goodbye!", "Bye!", "Bye", "See you later!", "Good night!", "I have to go now.", "See you tomorrow."),
    ("Goodbye! Have a nice day.", "Goodbye! It was nice to talk with you."),
)
FEELING = _one_of(
    (
        "I am tired.",
        "I am sad.",
        "I am bored.",
        "I am hungry.",
        "I had a bad day.",
        "I cannot sleep.",
        "I feel sick.",
    ),
    ("I am sorry to hear that. I hope that you feel better soon.",),
)
GOOD_FEELING = _one_of(
    (
        "I am happy.",
        "I had a good day.",
        "I feel great.",
        "I passed the test!",
        "It is my birthday.",
        "I got a new job!",
    ),
    ("That is good to hear! I am glad for you.",),
)
_TOPICS = (
    "the election", "the weather", "the football match", "the stock market", "my neighbour", "the news",
    "your favourite film",
    "quantum physics", "the history of Rome", "tax law", "this song", "my password", "the price of oil", "a good hotel",
    "the latest phone", "chess openings", "medicine for a cold", "the president",
)  # fmt: skip


def _unknown(rng: Random) -> Exchange:
    text = rng.choice(
        ("Tell me about {0}.", "What do you think of {0}?", "What do you know about {0}?", "Explain {0}.")
    )
    return Exchange(
        text.format(rng.choice(_TOPICS)), f"I am sorry, I do not know that. {IS} Please ask a larger model."
    )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_BARE = {"sea", "rain", "snow", "wind", "ice", "fire", "gold", "iron", "glass", "paper", "sun", "moon"}


def _definition(rng: Random) -> Exchange:
    noun, text = rng.choice(list(facts.DEFINITIONS.items()))
    thing = f"the {noun}" if noun in ("sea", "sun", "moon") else noun if noun in _BARE else _article(noun)
    ask = rng.choice(
        ("What is {0}?", "What is {0}", "Explain what {0} is.", "Define {1}.", "What does the word {1} mean?",
         "Can you tell me what {0} is?", "Please explain the word {1}.")
    )  # fmt: skip
    return Exchange(ask.format(thing, noun), f"{thing[0].upper()}{thing[1:]} is {text}.", text)


def _capital(rng: Random) -> Exchange:
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.3:
        ask = rng.choice(
            ("Where is {0}?", "In which country is {0}?", "{0} is the capital of which country?")
        )
        return Exchange(ask.format(city), f"{city} is the capital of {country}.", country)
    ask = rng.choice(("What is the capital of {0}?", "Which city is the capital of {0}?", "Name the capital of {0}.",
                      "Tell me the capital of {0}."))  # fmt: skip
    return Exchange(ask.format(country), f"The capital of {country} is {city}.", city)


def _opposite(rng: Random) -> Exchange:
    pair = list(rng.choice(list(facts.OPPOSITES.items())))
    ask = rng.choice(
        (
            "What is the opposite of {0}?",
            "Give me the opposite of {0}.",
            "What is the opposite of the word {0}?",
        )
    )
    return Exchange(ask.format(pair[0]), f"The opposite of {pair[0]} is {pair[1]}.", pair[1])


def _colour(rng: Random) -> Exchange:
    thing, colour = rng.choice(list(facts.COLOURS.items()))
    ask = rng.choice(("What colour is {0}?", "Which colour has {0}?", "What is the colour of {0}?"))
    return Exchange(ask.format(thing), f"{thing[0].upper()}{thing[1:]} is {colour}.", colour)


def _animal(rng: Random) -> Exchange:
    if rng.random() < 0.5:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        ask = rng.choice(("What sound does {0} make?", "What does {0} do when it makes a sound?"))
        return Exchange(ask.format(_article(animal)), f"{_article(animal).capitalize()} {sound}.", sound)
    animal, legs = rng.choice(list(facts.LEGS.items()))
    ask = rng.choice(("How many legs does {0} have?", "How many legs has {0}?"))
    count = f"{legs} legs" if legs else "no legs"
    return Exchange(ask.format(_article(animal)), f"{_article(animal).capitalize()} has {count}.", count)


def _kind(rng: Random) -> Exchange:
    kind, members = rng.choice(list(facts.KINDS.items()))
    if rng.random() < 0.4:
        count = rng.randint(2, 4)
        named = rng.sample(members, count)
        plural = "pieces of furniture" if "furniture" in kind else f"{kind}s"
        ask = rng.choice(("Name {0} {1}.", "Tell me {0} {1}.", "Give me {0} {1}."))
        return Exchange(ask.format(count, plural), ", ".join(named[:-1]) + f" and {named[-1]}.")
    other = rng.choice([name for name in facts.KINDS if name != kind])
    member, asked = rng.choice(members), rng.choice((kind, other))
    is_one = member in facts.KINDS[asked]
    answer = f"Yes, {member} is {_article(kind)}." if is_one else f"No, {member} is {_article(kind)}."
    ask = rng.choice(("Is {0} {1}?", "Would you say that {0} is {1}?"))
    return Exchange(ask.format(member, _article(asked)), answer, answer[:3].rstrip(","))


def _calendar(rng: Random) -> Exchange:
    row = rng.choice((facts.DAYS, facts.MONTHS, facts.SEASONS))
    index, step = rng.randrange(len(row)), rng.choice((1, -1))
    side = "after" if step == 1 else "before"
    what = {facts.DAYS: "day", facts.MONTHS: "month", facts.SEASONS: "season"}[row]
    ask = rng.choice(("Which {0} comes {1} {2}?", "What {0} comes {1} {2}?", "What is the {0} {1} {2}?"))
    answer = row[(index + step) % len(row)]
    text = f"{answer[0].upper()}{answer[1:]} comes {side} {row[index]}."
    return Exchange(ask.format(what, side, row[index]), text, f"{answer[1:]} comes")


def _place(rng: Random) -> Exchange:
    what, where = rng.choice(list(facts.PLACES_FOR.items()))
    ask = rng.choice(("Where can I {0}?", "Where do people {0}?", "Where does one {0}?"))
    return Exchange(ask.format(what), f"People {what} {where}.", where)


def _scrap(rng: Random) -> str:
    """Something short without meaning of its own: a word, a numbered thing, a code, a path, a name."""
    noun = rng.choice(_WORDS)
    return rng.choice(
        (
            noun,
            noun,
            f"{noun} {rng.randint(1, 9)}",
            f"{rng.choice('BL')}{rng.randint(10, 99)}",
            f"/{noun}/{rng.choice(_WORDS)}.txt",
            rng.choice(problems.NAMES),
            str(rng.randint(0, 99)),
        )
    )


def _repeat(rng: Random) -> Exchange:
    """Copying is what acting on observations begins with; a long text is nothing but copying."""
    said = rng.choice((" ", " ", ", ")).join(_scrap(rng) for _ in range(rng.randint(1, 12)))
    ask = rng.choice(
        ("Repeat after me: {0}", "Say this: {0}", "Repeat: {0}", "Copy this: {0}", "Please repeat {0}")
    )
    return Exchange(ask.format(said), said, said)


def _note(rng: Random) -> Exchange:
    """Looking something up in what was just read."""
    names = rng.sample((*problems.NAMES, *_WORDS), rng.randint(3, 7))
    values = {name: _scrap(rng) for name in names}
    note = ", ".join(f"{name}: {value}" for name, value in values.items())
    asked = rng.sample(names, rng.randint(1, min(3, len(names) - 1)))
    wanted = ", ".join(f"{name}: {values[name]}" for name in asked)
    ask = rng.choice(
        ("Read this: {0}. What stands beside {1}?", "{0}. Look up {1}.", "Here is a list. {0}. Find {1}.")
    )
    return Exchange(ask.format(note, " and ".join(asked)), f"{wanted}.", wanted)


def _drill(rng: Random) -> Exchange:
    """The same again and again, from two scraps to two dozen: a few teach which words may come, many in what order."""
    length = round(math.exp(rng.uniform(math.log(2), math.log(24))))
    times = max(2, min(20, round(rng.uniform(24, 48) / length)))
    said = " ".join(_scrap(rng) for _ in range(length))
    return Exchange(f"Repeat {times} times: {said}", "\n".join([said] * times), said)


def practice(rng: Random) -> list[Exchange]:
    """A conversation that is nothing but copying, or several look-ups in one list."""
    kind = rng.random()
    if kind < 0.6:
        return [_drill(rng)]
    if kind < 0.75:
        said = " ".join(_scrap(rng) for _ in range(rng.randint(8, 30)))
        return [Exchange(f"Repeat: {said}", said, said)]
    names = rng.sample((*problems.NAMES, *_WORDS), rng.randint(4, 8))
    values = {name: _scrap(rng) for name in names}
    note = ", ".join(f"{name}: {value}" for name, value in values.items())
    asked = rng.sample(names, rng.randint(3, len(names)))
    return [
        Exchange(
            f"{note}. Find {name}." if turn == 0 else f"Find {name}.",
            f"{name}: {values[name]}.",
            values[name],
        )
        for turn, name in enumerate(asked)
    ]


def _count(rng: Random) -> Exchange:
    first = rng.randint(1, 20)
    last = first + rng.randint(2, 7)
    ask = rng.choice(
        ("Count from {0} to {1}.", "Please count from {0} to {1}.", "Write the numbers from {0} to {1}.")
    )
    text = ", ".join(str(number) for number in range(first, last + 1))
    return Exchange(ask.format(first, last), f"{text}.", text)


def _compare(rng: Random) -> Exchange:
    a, b = rng.sample(range(1, 100), 2)
    word, value = rng.choice((("larger", max(a, b)), ("smaller", min(a, b))))
    ask = rng.choice(("Which number is {0}, {1} or {2}?", "What is {0}, {1} or {2}?"))
    return Exchange(ask.format(word, a, b), f"{value} is {word}.", f"{value} is")


def _letter(rng: Random) -> Exchange:
    word = rng.choice([noun for noun in facts.DEFINITIONS if " " not in noun])
    which, letter = rng.choice((("first", word[0]), ("last", word[-1])))
    ask = rng.choice(("What is the {0} letter of {1}?", "What is the {0} letter of the word {1}?"))
    return Exchange(ask.format(which, word), f"The {which} letter of {word} is {letter}.", f"is {letter}.")


def _sum(rng: Random) -> Exchange:
    problem = problems.draw_sum(rng)
    word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[problem.sign]
    ask = rng.choice(("What is {0} {1} {2}?", "{0} {1} {2} = ?", "How much is {0} {1} {2}?", "Calculate {0} {1} {2}.",
                      "What is {0} {3} {2}?", "How much is {0} {3} {2}?"))  # fmt: skip
    asked = ask.format(problem.a, problem.sign, problem.b, word)
    return Exchange(asked, problem.sum, f"= {problem.result}.")


def _problem(rng: Random) -> Exchange:
    problem = problems.draw(rng)
    prefix = rng.choice(("", "", "", "Question: "))
    return Exchange(prefix + problem.question, problem.working, f"#### {problem.result}")


def _story(rng: Random) -> Exchange:
    name, friend = rng.sample(problems.NAMES, 2)
    animal = rng.choice(facts.KINDS["animal"])
    place = rng.choice(("forest", "garden", "market", "river", "school", "lake"))
    thing = rng.choice(("key", "book", "letter", "map", "flower", "stone"))
    about = rng.choice((f"{_article(animal)}", f"{_article(thing)}", f"a girl or boy called {name}"))
    ask = rng.choice(
        ("Tell me a story about {0}.", "Tell me a short story about {0}.", "Write a story about {0}.")
    )
    text = (
        f"One day {name} went to the {place} and met {_article(animal)}. The {animal} had lost {_article(thing)}. "
        f"{name} and {friend} looked for it together and found the {thing} under a tree. "
        f"The {animal} was happy, and they all went home."
    )
    return Exchange(ask.format(about), text)


KINDS: Mapping[str, tuple[Maker, int]] = {
    "greeting": (GREETING, 8),
    "identity": (IDENTITY, 6),
    "abilities": (ABILITIES, 2),
    "thanks": (THANKS, 2),
    "farewell": (FAREWELL, 2),
    "feeling": (FEELING, 1),
    "good feeling": (GOOD_FEELING, 1),
    "unknown": (_unknown, 3),
    "definition": (_definition, 12),
    "capital": (_capital, 4),
    "opposite": (_opposite, 4),
    "colour": (_colour, 2),
    "animal": (_animal, 3),
    "kind": (_kind, 5),
    "calendar": (_calendar, 3),
    "place": (_place, 2),
    "repeat": (_repeat, 16),
    "note": (_note, 14),
    "count": (_count, 3),
    "compare": (_compare, 4),
    "letter": (_letter, 2),
    "sum": (_sum, 12),
    "problem": (_problem, 24),
    "story": (_story, 2),
}
"""Kind of exchange: how one is made, and how often beside the others."""
TESTED = tuple(kind for kind in KINDS if kind not in ("greeting", "identity", "abilities", "thanks", "farewell", "feeling",
                                                      "good feeling", "unknown", "story"))  # fmt: skip
"""Kinds whose answers can be checked."""


def draw(kind: str, split: Split, rng: Random) -> Exchange:
    """An exchange of a kind whose question belongs to the split; talk that cannot be tested is all for training."""
    maker = KINDS[kind][0]
    for _ in range(1000):
        exchange = maker(rng)
        if kind not in TESTED:
            return exchange
        if split_of(exchange.question) is split and (exchange.wanted or split is Split.TRAIN):
            return exchange
    raise AssertionError(f"no question of kind {kind!r} belongs to {split}")
