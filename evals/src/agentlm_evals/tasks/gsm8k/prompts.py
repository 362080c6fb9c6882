"""Our own wording of GSM8K's dialogue, with eight worked examples of our own making. Refuses to know the scorer."""

SYSTEM = "You are a careful assistant who solves problems step by step."
INSTRUCTION = "I will give you maths problems. Work out each one step by step and end with: The answer is N"
READY = "Understood."


def question(text: str) -> str:
    """How a problem is put."""
    return f"Question: {text}"


SHOTS = (
    (
        "A shelf holds 9 books. Mira adds 6 books. How many books are on the shelf now?",
        "There were 9 books and 6 more came: 9 + 6 = 15. The answer is 15",
    ),
    (
        "A baker fills 4 trays with 8 rolls each and sells 11 rolls. How many rolls are left?",
        "4 trays of 8 rolls are 4 * 8 = 32 rolls. After selling 11 there are 32 - 11 = 21. The answer is 21",
    ),
    (
        "Tom has 54 stamps and puts the same number on each of 6 pages. How many stamps are on a page?",
        "54 stamps on 6 pages are 54 / 6 = 9 stamps a page. The answer is 9",
    ),
    (
        "A train ticket costs $14 and a bus ticket half as much. What do 3 bus tickets cost?",
        "A bus ticket costs 14 / 2 = 7 dollars. Three cost 3 * 7 = 21 dollars. The answer is 21",
    ),
    (
        "A tank holds 120 litres. A quarter is used in the morning and 35 litres in the evening. How many litres remain?",
        "A quarter of 120 is 120 / 4 = 30 litres. 30 + 35 = 65 litres are used. 120 - 65 = 55 remain. The answer is 55",
    ),
    (
        "Lena is twice as old as Omar, who is 3 years older than Pia. Pia is 8. How old is Lena?",
        "Omar is 8 + 3 = 11 years old. Lena is 2 * 11 = 22 years old. The answer is 22",
    ),
    (
        "A shop takes 20% off a coat that costs $75. What does the coat cost then?",
        "20% of 75 is 75 * 0.2 = 15 dollars. The coat then costs 75 - 15 = 60 dollars. The answer is 60",
    ),
    (
        "Two pumps fill a pool. One gives 40 litres a minute, the other 25. How many litres are in it after 12 minutes?",
        "Together they give 40 + 25 = 65 litres a minute. In 12 minutes that is 65 * 12 = 780 litres. The answer is 780",
    ),
)
