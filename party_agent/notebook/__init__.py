"""Python interface in the manner of scikit-learn, over the same processes that the commands start: docs/notebook.md.

Needs the extra `notebook` (scikit-learn, matplotlib).
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("party_agent.notebook needs scikit-learn: pip install 'concordat[notebook]'") from error

from party_agent.notebook.estimator import JointScorecard
from party_agent.notebook.job_folder import read_scored

__all__ = ["JointScorecard", "read_scored"]
