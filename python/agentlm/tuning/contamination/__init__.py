"""Which tokens of an evaluation set stand in training data: AgentTuning's test, after Llama-2's.

Refuses to know tasks and mixtures, and to change the data: it says where the overlaps stand.
"""

from agentlm.tuning.contamination.html import page
from agentlm.tuning.contamination.result import BUCKETS, Bucket, Contamination, Overlap, SampleFinding
from agentlm.tuning.contamination.samples import ContaminationError, EvaluationSample, read_samples, read_sets
from agentlm.tuning.contamination.scan import Settings, scan, sources

__all__ = [
    "BUCKETS",
    "Bucket",
    "Contamination",
    "ContaminationError",
    "EvaluationSample",
    "Overlap",
    "SampleFinding",
    "Settings",
    "page",
    "read_samples",
    "read_sets",
    "scan",
    "sources",
]
