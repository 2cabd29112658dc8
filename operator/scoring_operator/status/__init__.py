"""Status: what was observed in, conditions with reasons and messages out. Pure: no clock, no cluster.

Takes the children as the API server stores them and gives the `status` of the ScoringModel. Every reason is a member of
`Reason`, which docs/reasons.md explains one by one; every message says the cause and the way out.
"""

from scoring_operator.status.conditions import Condition, merge_conditions
from scoring_operator.status.derive import Observed, Status, derive_status
from scoring_operator.status.reasons import Reason

__all__ = ["Condition", "Observed", "Reason", "Status", "derive_status", "merge_conditions"]
