"""Verification before loading: what a pickle would import and call, and which library wrote a file, without loading it.

Takes paths of files that were fetched, gives nothing back when they are fine, and raises `UnsafePickle`,
`VersionMismatch` or `LoadFailed` when they are not; of a folder, `signature.py` tells whether a key's owner signed it
(`SignatureInvalid`). It reads opcodes and metadata; it never unpickles, and never
imports a module because a file names it (the exception: submodules of installed scikit-learn and the like, to make
sure that what is called a class is one).

The scan follows a file as `joblib.load` reads it. A caller that reads a scanned file with anything else than
`joblib.load` (or `torch.load(weights_only=True)` for torch's zip files) has verified something else than it loads.
"""

from model_scorer.verify.pickles import check_pickle
from model_scorer.verify.versions import check_versions

__all__ = ["check_pickle", "check_versions"]
