"""What would damage a training run without a word, found before it starts; and samples as the trainer sees them.

Refuses to repair anything: `agentlm data filter` removes, `agentlm data import` repairs.
"""

from agentlm.tuning.data.audit.checks import REASONS, Auditor, AuditSettings
from agentlm.tuning.data.audit.run import AuditReport, Finding, Sample, run

__all__ = ["REASONS", "AuditReport", "AuditSettings", "Auditor", "Finding", "Sample", "run"]
