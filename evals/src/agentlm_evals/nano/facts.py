"""What the small model is taught about the world: a few hundred plain facts, written for it. Refuses to know phrasings."""

from collections.abc import Mapping

DEFINITIONS: Mapping[str, str] = {
    "river": "a long stream of water that flows to the sea or to a lake",
    "lake": "a large area of water with land all around it",
    "sea": "the salt water that covers most of the Earth",
    "island": "land with water all around it",
    "mountain": "a very high part of the land",
    "hill": "a small high part of the land",
    "forest": "a large area with many trees",
    "desert": "a dry area with very little rain",
    "tree": "a tall plant with a trunk, branches and leaves",
    "flower": "the part of a plant that makes seeds and often has bright colours",
    "leaf": "a flat green part of a plant that takes in light",
    "seed": "a small part of a plant from which a new plant grows",
    "fruit": "the part of a plant that holds the seeds and can often be eaten",
    "bird": "an animal with feathers, two legs and two wings",
    "fish": "an animal that lives in water and breathes with gills",
    "insect": "a small animal with six legs",
    "mammal": "an animal that feeds its young with milk",
    "horse": "a large animal that people ride",
    "dog": "an animal that people keep as a friend and to guard the house",
    "cat": "a small animal that people keep at home and that hunts mice",
    "bee": "an insect that makes honey",
    "sun": "the star that gives the Earth light and heat",
    "moon": "the body that goes around the Earth in about a month",
    "star": "a very large ball of hot gas that shines in the night",
    "planet": "a large body that goes around a star",
    "rain": "water that falls from clouds in drops",
    "snow": "frozen water that falls from clouds in soft white pieces",
    "wind": "air that moves",
    "cloud": "many tiny drops of water high in the air",
    "ice": "water that is frozen and hard",
    "fire": "the heat and light of something that burns",
    "stone": "a hard piece of the ground",
    "gold": "a yellow metal that is worth a lot of money",
    "iron": "a strong metal that is used for tools",
    "glass": "a hard clear material that is used for windows",
    "paper": "thin sheets made of wood that people write on",
    "house": "a building in which people live",
    "school": "a place where children learn",
    "hospital": "a place where sick people are cared for",
    "library": "a place where books are kept and lent",
    "market": "a place where people buy and sell things",
    "bridge": "something that carries a road over a river or a valley",
    "road": "a way on which cars and people go from place to place",
    "ship": "a large boat that crosses the sea",
    "train": "a row of wagons that an engine pulls on rails",
    "bicycle": "a vehicle with two wheels that is moved with the feet",
    "clock": "a machine that shows the time",
    "key": "a small piece of metal that opens a lock",
    "knife": "a tool with a sharp side for cutting",
    "spoon": "a tool for eating soup",
    "chair": "a piece of furniture to sit on",
    "table": "a piece of furniture with a flat top and legs",
    "bed": "a piece of furniture to sleep in",
    "lamp": "a thing that gives light",
    "mirror": "a piece of glass in which one sees oneself",
    "pen": "a tool for writing with ink",
    "book": "sheets of paper with text, held together in a cover",
    "letter": "a message on paper, or a sign of the alphabet",
    "word": "a group of letters that means something",
    "sentence": "a group of words that says something complete",
    "story": "a text that tells what happened to somebody",
    "song": "words that are sung to music",
    "map": "a picture of an area seen from above",
    "number": "a word or sign that says how many",
    "triangle": "a shape with three sides",
    "square": "a shape with four equal sides and four right angles",
    "circle": "a round shape whose edge is everywhere equally far from its centre",
    "teacher": "a person who helps others to learn",
    "doctor": "a person who helps sick people",
    "farmer": "a person who grows food",
    "baker": "a person who makes bread",
    "friend": "a person whom one likes and trusts",
    "computer": "a machine that follows instructions and works with data",
    "program": "a list of instructions for a computer",
    "file": "data that a computer keeps under a name",
    "folder": "a place for files in a computer",
    "database": "data in an order in which a computer finds them quickly",
    "robot": "a machine that does work by itself",
    "language model": "a program that writes text by choosing one piece of a word after another",
    "server": "a program that answers the requests of other programs",
    "agent": "somebody or something that acts to reach a goal",
}
"""Noun without article to its definition."""

CAPITALS: Mapping[str, str] = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London", "Austria": "Vienna",
    "Norway": "Oslo", "Sweden": "Stockholm", "Ireland": "Dublin", "Greece": "Athens", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Russia": "Moscow", "Canada": "Ottawa",
    "Hungary": "Budapest", "Finland": "Helsinki", "Denmark": "Copenhagen",
}  # fmt: skip

OPPOSITES: Mapping[str, str] = {
    "hot": "cold", "big": "small", "long": "short", "high": "low", "fast": "slow", "old": "young", "good": "bad",
    "light": "dark", "open": "closed", "full": "empty", "hard": "soft", "rich": "poor", "strong": "weak", "early": "late",
    "near": "far", "wet": "dry", "clean": "dirty", "loud": "quiet", "happy": "sad", "right": "wrong", "up": "down",
    "day": "night", "first": "last", "left": "right", "black": "white", "thick": "thin", "sweet": "sour", "push": "pull",
}  # fmt: skip

COLOURS: Mapping[str, str] = {
    "grass": "green", "snow": "white", "the sky": "blue", "blood": "red", "a lemon": "yellow", "coal": "black",
    "a banana": "yellow", "milk": "white", "a tomato": "red", "a carrot": "orange", "an elephant": "grey", "gold": "yellow",
    "chocolate": "brown", "a leaf": "green", "the sea": "blue", "the sun": "yellow",
}  # fmt: skip

SOUNDS: Mapping[str, str] = {
    "dog": "barks", "cat": "meows", "cow": "moos", "sheep": "bleats", "duck": "quacks", "lion": "roars", "frog": "croaks",
    "bee": "buzzes", "horse": "neighs", "bird": "sings", "wolf": "howls", "pig": "grunts",
}  # fmt: skip

LEGS: Mapping[str, int] = {
    "dog": 4, "cat": 4, "horse": 4, "bird": 2, "spider": 8, "bee": 6, "ant": 6, "fish": 0, "snake": 0, "chicken": 2,
    "cow": 4, "frog": 4, "beetle": 6, "duck": 2,
}  # fmt: skip

KINDS: Mapping[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "cow", "sheep", "lion", "bear", "frog", "snake", "duck"),
    "fruit": ("apple", "pear", "banana", "orange", "lemon", "plum", "cherry"),
    "colour": ("red", "blue", "green", "yellow", "black", "white", "brown", "grey"),
    "tool": ("hammer", "saw", "knife", "spade", "drill"),
    "vehicle": ("car", "bus", "train", "ship", "bicycle", "boat"),
    "metal": ("gold", "silver", "iron", "copper", "steel"),
    "vegetable": ("carrot", "potato", "onion", "bean", "cabbage"),
    "piece of furniture": ("chair", "table", "bed", "desk", "sofa"),
}

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")

PLACES_FOR: Mapping[str, str] = {
    "buy bread": "at a baker's", "borrow a book": "in a library", "see a doctor": "in a hospital",
    "learn to read": "at school",
    "sleep": "in a bed", "cook soup": "in a kitchen", "catch a train": "at a station", "swim": "in a lake or in the sea",
    "grow tomatoes": "in a garden", "watch a play": "in a theatre", "see old paintings": "in a museum",
    "post a letter": "at a post office",
}  # fmt: skip
