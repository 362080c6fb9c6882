"""Our wording of the task, in the original's form: one growing text, no chat template.

Refuses to know the published texts.
"""

INSTRUCTION = """\
Answer a question by reading articles of an encyclopedia. Work in steps: a Thought about what you know and what you still \
need, then an Action. There are three actions:
(1) Search[title] opens the article of that title and shows its first paragraph. If there is none, it \
shows titles that are similar.
(2) Lookup[keyword] shows the next sentence of the open article that holds the keyword.
(3) Finish[answer] ends the task with your answer: a name, a date, a number, or yes or no, and nothing else.
After each action you are shown an Observation. You have ten steps.
Here are two examples:
{examples}
(END OF EXAMPLES)
Question: {question}{scratchpad}"""

EXAMPLES = """Question: On which river does the town lie in which the painter Ilse Marenholt was born?
Thought 1: I have to find where Ilse Marenholt was born, and then the river of that town.
Action 1: Search[Ilse Marenholt]
Observation 1: Ilse Marenholt was a painter of harbours and fog. Her first exhibition was held in 1893.
Thought 2: The paragraph does not say where she was born. I look up "born" in it.
Action 2: Lookup[born]
Observation 2: No Results
Thought 3: The article does not tell. Perhaps a town names her among its people.
Action 3: Search[birthplace of Ilse Marenholt]
Observation 3: Could not find [birthplace of Ilse Marenholt]. Similar: ['Aldersund', 'Ilse Marenholt', 'Harbour painting']
Thought 4: Aldersund may be the town.
Action 4: Search[Aldersund]
Observation 4: Aldersund is a market town on the river Vesk. The painter Ilse Marenholt was born there.
Thought 5: She was born in Aldersund, which lies on the Vesk.
Action 5: Finish[Vesk]

Question: Are the Corran Bridge and the Ostrey Viaduct in the same county?
Thought 1: I need the county of each and then compare them.
Action 1: Search[Corran Bridge]
Observation 1: The Corran Bridge is a stone bridge of seven arches in Lowmarch county.
Thought 2: The first is in Lowmarch. Now the second.
Action 2: Search[Ostrey Viaduct]
Observation 2: The Ostrey Viaduct carries a disused railway over the Ostrey valley in Highmarch county.
Thought 3: One is in Lowmarch and the other in Highmarch, so they are not in the same county.
Action 3: Finish[no]
"""

OBSERVATION = "\nObservation {0}: "
THOUGHT = "\nThought {0}:"
ACTION = "\nAction {0}:"
NOTHING_OPEN = "No article is open, so there is nothing to look a keyword up in. Search for a title first."
INVALID = "That is no action. Use Search[title], Lookup[keyword] or Finish[answer]."
