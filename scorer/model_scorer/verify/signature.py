"""OpenSSF model signatures: a folder is what the owner of a key signed, whole and unchanged, or it is not used.

The signature is a Sigstore bundle, `model.sig` in the model folder, made with
`model_signing sign key --private_key key.pem --signature MODEL/model.sig MODEL` (https://github.com/sigstore/model-transparency).
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

from model_scorer.errors import InvalidSpec, MissingDependency, SignatureInvalid

log = logging.getLogger(__name__)

SIGNATURE_NAME = "model.sig"
_MAX_SIGNATURE_BYTES = 32 << 20
_MAX_KEY_BYTES = 64 << 10
_WAY_OUT = (
    "Sign the folder again with the key's private half (model_signing sign key --private_key key.pem --signature "
    f"MODEL/{SIGNATURE_NAME} MODEL) and upload all of it; if the model was not changed on purpose, find out who did."
)


def verify_signature(folder: Path, public_key: Path, *, display: str) -> None:
    """Compare a folder with its signature.

    Args:
        folder: the model's files with `model.sig` among them; nothing else is in it yet.
        public_key: PEM of an elliptic curve key (P-256, P-384 or P-521).
        display: the model's URI for messages.

    Raises:
        SignatureInvalid: no signature, another key's, or files that were changed, added or removed since.
        InvalidSpec: the key cannot be read.
        MissingDependency: the library that verifies is not installed.
    """
    try:
        from model_signing import verifying
    except ImportError as err:
        raise MissingDependency(
            f"A signature is asked for, and the Python module {err.name or 'model_signing'}, which verifies it, is not "
            "in this image.",
            hint="Use a scorer image with the extra 'signing' (spec.image).",
        ) from err
    verifier = verifying.Config()
    try:
        if public_key.stat().st_size > _MAX_KEY_BYTES:
            raise ValueError("it is too long for a key")
        verifier.use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as err:
        what = err.strerror if isinstance(err, OSError) else str(err).splitlines()[0][:200]
        raise InvalidSpec(
            f"The public key {public_key} cannot be used: {what}.",
            hint="Give the PEM of an elliptic curve key: openssl ec -in key.pem -pubout.",
        ) from err
    signature = folder / SIGNATURE_NAME
    if not signature.is_file():
        raise SignatureInvalid(
            f"{display} has no signature: there is no {SIGNATURE_NAME} in it.",
            hint=f"Publish a folder or an archive that was signed: model_signing sign key --private_key key.pem "
            f"--signature MODEL/{SIGNATURE_NAME} MODEL",
        )
    if signature.stat().st_size > _MAX_SIGNATURE_BYTES:
        raise SignatureInvalid(
            f"{SIGNATURE_NAME} of {display} is larger than {_MAX_SIGNATURE_BYTES >> 20} MiB.",
            _WAY_OUT,
        )
    try:
        unsigned = _files_of(folder) - _verify_aside(verifier, folder) - {SIGNATURE_NAME}
    # Whatever the library trips over, the files are not what was signed.
    except Exception as err:
        text = " ".join(str(err).split())[:500] or "the signature is another key's"
        raise SignatureInvalid(
            f"The signature of {display} does not hold ({type(err).__name__}: {text}); nothing was loaded.",
            _WAY_OUT,
        ) from err
    # The signer may leave out what it likes, git's files by default; what is left out is not to be used here.
    if unsigned:
        raise SignatureInvalid(
            f"{display} holds files that its signature leaves out: {', '.join(sorted(unsigned)[:5])}.",
            "Remove them, or sign the folder with them (model_signing sign key … --no-ignore-git-paths).",
        )
    log.info("the signature holds", extra={"uri": display})


def _verify_aside(verifier: Any, folder: Path) -> set[str]:
    """Verify with the signature beside the folder, as it may have been made there; return the signed files."""
    aside = folder.with_name(f".{folder.name}.{SIGNATURE_NAME}")
    (folder / SIGNATURE_NAME).rename(aside)
    try:
        # The library prints what it has to say about old signatures.
        with contextlib.redirect_stdout(io.StringIO()):
            verifier.verify(folder, aside)
        return _signed_files(aside)
    finally:
        aside.rename(folder / SIGNATURE_NAME)


def _files_of(folder: Path) -> set[str]:
    return {
        str((Path(current) / name).relative_to(folder))
        for current, _, names in os.walk(folder)
        for name in names
    }


def _signed_files(signature: Path) -> set[str]:
    """Return the paths that a signature, which holds, is about (in-toto statement in a DSSE envelope)."""
    bundle: Any = json.loads(signature.read_bytes())
    statement: Any = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    if "resources" not in statement.get("predicate", {}):
        return {str(subject["name"]) for subject in statement["subject"]}
    return {str(resource["name"]) for resource in statement["predicate"]["resources"]}
