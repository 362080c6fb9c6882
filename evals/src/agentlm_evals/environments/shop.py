"""A shop: search, compare, choose options, buy. After WebShop, in words of our own. Refuses to know replies and rounds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import CLICK
from agentlm_evals.environments.world import Advice, Game, World

INSTRUCTION = (
    "You are in a web shop. Each turn reply with Thought: and Action:, where the action is search[keywords] or "
    "click[value] and the value is one of the clickables. Buy the product that fits the instruction."
)

MATERIALS = ("cotton", "wool", "leather", "silk", "steel", "wooden", "plastic", "glass")
KINDS = (
    "shirt",
    "jacket",
    "hat",
    "scarf",
    "bag",
    "belt",
    "lamp",
    "chair",
    "cup",
    "bowl",
    "box",
    "ring",
    "coat",
    "desk",
)
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey")
SIZES = ("small", "medium", "large")
SEARCH, BACK, BUY = "search", "back to search", "buy now"
_SHOWN = 3
"""Results on a page: those that share most words with the search."""


@dataclass(frozen=True, slots=True)
class Product:
    """What the shop sells; the price is in dollars."""

    code: str
    material: str
    kind: str
    price: int
    colours: tuple[str, ...]
    sizes: tuple[str, ...]

    @property
    def title(self) -> str:
        """As the list of results shows it."""
        return f"{self.material} {self.kind}"


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be bought: every property is worth the same."""

    material: str
    kind: str
    colour: str
    size: str
    below: int

    @property
    def text(self) -> str:
        """The instruction."""
        thing = f"{self.colour} {self.material} {self.kind}"
        return f"I want a {thing}, size {self.size}, price lower than {self.below} dollars."


@dataclass(slots=True)
class Shop(Game):
    """A visit to the shop."""

    products: list[Product]
    wish: Wish
    results: list[Product] = field(default_factory=list)
    page: Product | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    """By kind of option, on the present page."""
    viewed: set[str] = field(default_factory=set)
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.opening = self._observation(["Instruction: " + self.wish.text, "Search"])

    # --- rules -------------------------------------------------------------------------------------------------------
    @property
    def clickables(self) -> list[str]:
        """What can be clicked on the present page."""
        if self.page:
            return [BACK, "< prev", *self.page.colours, *self.page.sizes, BUY]
        return [BACK, *(product.code for product in self.results)] if self.results else [SEARCH]

    def _observation(self, parts: Sequence[str]) -> str:
        bar = not self.results and not self.page
        actions = {"has_search_bar": bar, "clickables": self.clickables}
        return f"Observation:\n{' [SEP] '.join(parts)}\n\nAvailable Actions:\n{json.dumps(actions)}"

    def _show(self) -> str:
        if self.page:
            chosen = [f"chosen: {value}" for value in self.chosen.values()]
            return self._observation([self.page.title, f"{self.page.price} dollars", *chosen])
        if self.results:
            return self._observation([f"{p.code} {p.title}, {p.price} dollars" for p in self.results])
        return self._observation(["Instruction: " + self.wish.text, "Search"])

    def act(self, action: str) -> str:
        """See `Game.act`. A click on what is not there changes nothing."""
        verb, _, rest = action.partition("[")
        value = rest.removesuffix("]").strip()
        if verb == "search":
            if not self.results and not self.page:
                self.results = self._find(value.lower())
            return self._show()
        self._click(next((known for known in self.clickables if known.lower() == value.lower()), ""))
        return self._show()

    def _find(self, keywords: str) -> list[Product]:
        """The products that share most words with the search, at least one; ties in the shop's order."""
        asked = set(keywords.split())
        found = [(len(asked & set(product.title.split())), product) for product in self.products]
        return [p for score, p in sorted(found, key=lambda pair: -pair[0]) if score][:_SHOWN]

    def _click(self, value: str) -> None:
        if value == BACK:
            self.results, self.page, self.chosen = [], None, {}
        elif value == "< prev":
            self.page, self.chosen = None, {}
        elif value == BUY and self.page:
            self.done, self.reward = True, self._worth(self.page)
        elif self.page and value in self.page.colours:
            self.chosen["colour"] = value
        elif self.page and value in self.page.sizes:
            self.chosen["size"] = value
        elif value and value != SEARCH:
            self.page = next(product for product in self.results if product.code == value)
            self.viewed.add(value)

    def _worth(self, product: Product) -> float:
        """WebShop's shape: nothing for another kind of thing, else the share of the wishes that are met."""
        wish = self.wish
        if product.kind != wish.kind:
            return 0.0
        met = (
            product.material == wish.material,
            self.chosen.get("colour") == wish.colour,
            self.chosen.get("size") == wish.size,
            product.price < wish.below,
        )
        return sum(met) / len(met)

    # --- the expert --------------------------------------------------------------------------------------------------
    def advise(self) -> Advice:
        """See `Game.advise`: opens what fits by title and price, and goes back where an option is missing."""
        wish, page = self.wish, self.page
        if page is None and not self.results:
            return Advice(
                f"I search for a {wish.material} {wish.kind}.", f"search[{wish.material} {wish.kind}]"
            )
        if page is None:
            found = [p for p in self.results if self._suits(p) and p.code not in self.viewed]
            if not found:
                return Advice("Nothing here fits. I search again.", f"click[{BACK}]")
            code, price = found[0].code, found[0].price
            return Advice(
                f"{code} is a {found[0].title} for {price}, lower than {wish.below}.", f"click[{code}]"
            )
        if not self._suits(page):
            return Advice(f"The {page.title} for {page.price} is not what I want.", "click[< prev]")
        if wish.colour not in page.colours:
            return Advice(f"It is not sold in {wish.colour}. I go back.", "click[< prev]")
        if wish.size not in page.sizes:
            return Advice(f"It is not sold in {wish.size}. I go back.", "click[< prev]")
        if self.chosen.get("colour") != wish.colour:
            return Advice(f"I choose the colour {wish.colour}.", f"click[{wish.colour}]")
        if self.chosen.get("size") != wish.size:
            return Advice(f"I choose the size {wish.size}.", f"click[{wish.size}]")
        return Advice("All fits. I buy it.", f"click[{BUY}]")

    def _suits(self, product: Product) -> bool:
        wish = self.wish
        return (product.material, product.kind) == (wish.material, wish.kind) and product.price < wish.below

    def slips(self) -> Sequence[str]:
        """See `Game.slips`: options that are not wanted, products that do not fit."""
        if self.page:
            wanted = (self.wish.colour, self.wish.size)
            return [f"click[{v}]" for v in (*self.page.colours, *self.page.sizes) if v not in wanted]
        return [f"click[{product.code}]" for product in self.results if not self._suits(product)]


def _deal(rng: Random) -> Shop:
    """A wish, one product that fits it, and others that differ from it in one or two ways."""
    wish = Wish(
        rng.choice(MATERIALS),
        rng.choice(KINDS),
        rng.choice(COLOURS),
        rng.choice(SIZES),
        10 * rng.randint(2, 9),
    )
    codes = iter(f"B{code}" for code in rng.sample(range(10, 100), 12))

    def product(material: str, kind: str, price: int, colour: bool, size: bool) -> Product:
        colours = set(rng.sample(COLOURS, 2)) - {wish.colour}
        sizes = set(SIZES) - {wish.size}
        colours |= {wish.colour} if colour else set()
        sizes |= {wish.size} if size else set()
        ordered = tuple(value for value in COLOURS if value in colours)
        return Product(next(codes), material, kind, price, ordered, tuple(s for s in SIZES if s in sizes))

    def cheap() -> int:
        return (
            rng.randint(wish.below - 10, wish.below - 1)
            if rng.random() < 0.5
            else rng.randint(5, wish.below - 1)
        )

    products = [product(wish.material, wish.kind, cheap(), colour=True, size=True)]
    if rng.random() < 0.35:
        lacks_colour = rng.random() < 0.5
        products.append(
            product(wish.material, wish.kind, cheap(), colour=not lacks_colour, size=lacks_colour)
        )
    if rng.random() < 0.5:
        products.append(
            product(wish.material, wish.kind, wish.below + rng.randint(1, 40), colour=True, size=True)
        )
    others = [material for material in MATERIALS if material != wish.material]
    products += [product(rng.choice(others), wish.kind, cheap(), colour=True, size=True) for _ in range(2)]
    rng.shuffle(products)
    return Shop(products, wish)


SHOP = World(name="shop", held_in=True, rounds=12, instruction=INSTRUCTION, form=CLICK, deal=_deal)
