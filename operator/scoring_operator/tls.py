"""The certificate of a host: made and renewed by the operator, or read from a Secret of the user and checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from scoring_operator.api import Kinds, ScoringModel
from scoring_operator.certificates import CertificateView, make_certificate, read_certificate
from scoring_operator.cluster import Cluster
from scoring_operator.manifests import Exposure, names
from scoring_operator.manifests.exposure import CertificateSource
from scoring_operator.settings import Settings
from scoring_operator.status import Reason
from scoring_operator.status.termination import Finding

# Secrets of the user are not watched; a missing or wrong one is looked at again after this time.
_LOOK_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificate of the host, as far as it is not cert-manager's.

    Args:
        pair: PEM certificate and private key, when the operator makes them.
        problem: why the given one cannot be used.
        expires: when it ends.
        look_again_seconds: when something may have to be done; None: never.
    """

    pair: tuple[bytes, bytes] | None = None
    problem: Finding | None = None
    expires: datetime | None = None
    look_again_seconds: float | None = None


class HostCertificates:
    """Decides about the certificates of hosts.

    Args:
        cluster: where the Secrets are.
        settings: how long certificates live.
        now: the time, with zone.
    """

    def __init__(self, cluster: Cluster, settings: Settings, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._now = now

    async def decide(self, model: ScoringModel, exposure: Exposure) -> Tls:
        """Make, keep or check the certificate; nothing to do where cert-manager or a Gateway has it.

        Args:
            model: the ScoringModel.
            exposure: its host, and who makes the certificate.
        """
        if exposure.host is None:
            return Tls()
        if exposure.certificate is CertificateSource.SELF_SIGNED:
            return self._self_signed(model, exposure.host)
        if exposure.certificate is CertificateSource.SECRET:
            return await self._given_certificate(model, exposure.host)
        return Tls()

    def _self_signed(self, model: ScoringModel, host: str) -> Tls:
        now = self._now()
        secret = self._cluster.owned(Kinds.SECRET, model, f"{model.name}-tls")
        view: CertificateView | None = None
        if secret is not None:
            with suppress(ValueError):  # what cannot be used is replaced
                view = read_certificate(secret)
        if view is None or not view.covers(host) or view.renew_at() <= now:
            view = make_certificate(host, days=self._settings.certificate_days, now=now)
        again = (view.renew_at() - now).total_seconds()
        return Tls((view.pem, view.key_pem), expires=view.not_after, look_again_seconds=again)

    async def _given_certificate(self, model: ScoringModel, host: str) -> Tls:
        name = names.tls_secret_name(model)
        now = self._now()

        def problem(reason: Reason, what: str, hint: str) -> Tls:
            finding = Finding(reason, f"Secret {name}: {what}", hint)
            return Tls(problem=finding, look_again_seconds=_LOOK_AGAIN_SECONDS)

        secret = await self._cluster.read(Kinds.SECRET, model.namespace, name)
        if secret is None:
            hint = "Create it (kubectl create secret tls), or remove spec.ingress.tls.secretName."
            return problem(Reason.CERTIFICATE_PENDING, "does not exist", hint)
        hint = "Put a matching pair into tls.crt and tls.key."
        try:
            view = read_certificate(secret)
        except ValueError as err:
            return problem(Reason.CERTIFICATE_INVALID, str(err), hint)
        if not view.covers(host):
            what = f"the certificate is for {', '.join(view.hosts) or 'no host'}, not for {host}"
            return problem(Reason.CERTIFICATE_INVALID, what, hint)
        if view.not_after <= now:
            what = f"the certificate ended on {rfc3339(view.not_after)}"
            return problem(Reason.CERTIFICATE_INVALID, what, "Renew it.")
        left = (view.not_after - now).total_seconds()
        return Tls(expires=view.not_after, look_again_seconds=left)


def rfc3339(moment: datetime) -> str:
    """A time as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
