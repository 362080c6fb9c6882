"""The report: numbers with intervals, the paper's table, comparisons. Refuses to know servers and how episodes ran."""
