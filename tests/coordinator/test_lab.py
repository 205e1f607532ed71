"""The lab's folder, its authority, invitations and enrolment, and the operator's commands."""

from __future__ import annotations

import datetime
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from coordinator.certificates import LabAuthority, days_left
from coordinator.lab import DatabaseSettings, Enrolled, Lab, LabSettings, read_settings
from coordinator.lab_commands import app
from protocols.enrolment import EnrolmentToken, enrolment_statement
from protocols.errors import ConcordatError
from tests.running_lab import Clock

SETTINGS = LabSettings(name="lab", address="lab.example:8443", names=("10.0.0.7",))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> Iterator[Lab]:
    made = Lab.create(tmp_path / "lab", SETTINGS, clock)
    yield made
    made.close()


class Applicant:
    """An institution that asks to be enrolled, and can be made to lie."""

    def __init__(self, name: str = "bank") -> None:
        self.name = name
        self.identity = Ed25519PrivateKey.generate()
        self.key: Any = ec.generate_private_key(ec.SECP256R1())

    def csr(self, name: str | None = None) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or self.name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM)

    def statement(self, fingerprint: bytes) -> bytes:
        der = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return enrolment_statement(self.name, self.identity.public_key().public_bytes_raw(), der, fingerprint)

    def enrol(self, lab: Lab, token: str, **lies: Any) -> Enrolled:
        statement = lies.get("statement", self.statement(lab.authority.fingerprint))
        tls_key = lies.get("tls_key", self.key)
        return lab.enrol(
            EnrolmentToken.decode(token),
            self.name,
            self.identity.public_key().public_bytes_raw(),
            lies.get("csr", self.csr()),
            lies.get("identity", self.identity).sign(statement),
            tls_key.sign(statement, ec.ECDSA(hashes.SHA256())),
        )


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def test_everything_in_a_new_lab_is_its_owners_only(lab: Lab) -> None:
    assert stat.S_IMODE(lab.folder.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in lab.folder.iterdir()}
    expected = {"lab.toml", "identity.pem", "ca.pem", "ca.key", "relay.pem", "relay.key", "metrics.token", "lab.db"}
    assert expected <= set(files)
    assert set(files.values()) == {0o600}


def test_a_lab_is_not_made_over_something_else(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("mine")
    assert code_of(lambda: Lab.create(tmp_path, SETTINGS, clock)) == "OUT_NOT_EMPTY"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lab_is_loaded_as_it_was_made(lab: Lab, clock: Clock) -> None:
    again = Lab.load(lab.folder, clock)
    assert again.settings == SETTINGS
    assert again.authority.fingerprint == lab.authority.fingerprint
    assert again.identity_hex == lab.identity_hex
    again.close()


@pytest.mark.parametrize(
    "text",
    [
        "name = 3",
        'name = "lab"',
        'name = "lab"\naddress = "no-port"',
        'name = "lab"\naddress = "lab:8443"\nsecret = "x"',
        'name = "lab"\naddress = "lab:8443"\n[database]\nurl = "postgresql://"',
        'name = "lab"\naddress = "lab:8443"\n[database]\nurl_env = "A"\nurl_file = "b"',
        'name = "lab"\naddress = "lab:8443"\nnames = ["not a host"]',
        "\x00",
        "name = ",
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.toml").write_text(text)
    assert code_of(lambda: read_settings(tmp_path)) == "LAB_SETTINGS_INVALID"


def test_an_empty_folder_is_no_lab(tmp_path: Path, clock: Clock) -> None:
    assert code_of(lambda: Lab.load(tmp_path, clock)) == "LAB_MISSING"


def test_the_database_is_referred_to_by_variable_or_file(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    by_variable = SETTINGS.model_copy(update={"database": DatabaseSettings(url_env="LAB_URL")})
    Lab.create(tmp_path / "a", by_variable, clock, {"LAB_URL": url}).close()
    assert (tmp_path / "elsewhere.db").exists()
    assert url not in (tmp_path / "a" / "lab.toml").read_text()
    assert code_of(lambda: Lab.load(tmp_path / "a", clock, {})) == "DATABASE_URL_INVALID"
    (tmp_path / "url").write_text(url + "\n")
    by_file = SETTINGS.model_copy(update={"database": DatabaseSettings(url_file=str(tmp_path / "url"))})
    Lab.create(tmp_path / "b", by_file, clock).close()
    (tmp_path / "url").write_text("nonsense")
    assert code_of(lambda: Lab.load(tmp_path / "b", clock)) == "DATABASE_URL_INVALID"


def test_a_database_of_another_version_is_not_touched(lab: Lab, clock: Clock) -> None:
    def set_version(version: str) -> None:
        with lab.registry.engine.execution_options(write=True).begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": version})

    set_version("9999")
    assert code_of(lambda: Lab.load(lab.folder, clock)) == "SCHEMA_UNKNOWN"
    set_version("0001")
    with lab.registry.engine.execution_options(write=True).begin() as connection:
        later = ("requests", "head_notices", "queue_epoch", "model_events", "models")
        for table in (*later, "job_reports", "jobs", "contract_events", "contract_members", "contracts"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
        for table in ("institutions", "invitations", "certificates", "catalogue", "nonces", "alembic_version"):
            connection.execute(sa.text(f"DROP TABLE {table}"))
    assert code_of(lambda: Lab.load(lab.folder, clock)) == "SCHEMA_OUTDATED"
    Lab.upgrade(lab.folder, clock).close()
    Lab.load(lab.folder, clock).close()


# -- invitations and enrolment


def test_a_token_carries_address_and_fingerprint_and_only_its_hash_is_kept(lab: Lab) -> None:
    text = lab.invite("bank")
    token = EnrolmentToken.decode(text)
    assert (token.address, token.ca_fingerprint) == ("lab.example:8443", lab.authority.fingerprint)
    lab.close()
    stored = b"".join(path.read_bytes() for path in lab.folder.glob("lab.db*"))
    assert token.hash().encode() in stored
    for secret in (token.secret, token.secret.hex().encode(), text.encode(), text.split(".")[2].encode()):
        assert secret not in stored


@pytest.mark.parametrize("name", ["", "Bank", "coordinator", "a" * 33, "ba nk", "1bank", "bank\n", "../x"])
def test_a_name_that_no_contract_can_hold_is_not_invited(lab: Lab, name: str) -> None:
    assert code_of(lambda: lab.invite(name)) == "NAME_INVALID"


@pytest.mark.parametrize("hours", [0, -1, 10_000])
def test_a_token_lives_for_a_sensible_time(lab: Lab, hours: int) -> None:
    assert code_of(lambda: lab.invite("bank", hours)) == "INVITATION_HOURS"


def test_an_institution_gets_a_certificate_of_its_name_and_key(lab: Lab) -> None:
    bank = Applicant()
    answer = bank.enrol(lab, lab.invite("bank"))
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    certificate.verify_directly_issued_by(lab.authority.certificate)
    assert certificate.public_key() == bank.key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=bank"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [item.dotted_string for item in usage] == ["1.3.6.1.5.5.7.3.2"]  # client, never server
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    (member,) = lab.registry.institutions()
    assert (member.name, member.state) == ("bank", "active")
    assert member.identity == bank.identity.public_key().public_bytes_raw().hex()


def test_a_token_is_good_once_but_a_lost_answer_can_be_asked_for_again(lab: Lab) -> None:
    token, bank = lab.invite("bank"), Applicant()
    first = bank.enrol(lab, token)
    again = bank.enrol(lab, token)
    assert x509.load_pem_x509_certificate(again.certificate.encode()).public_key() == bank.key.public_key()
    assert first.ca == again.ca
    assert code_of(lambda: Applicant().enrol(lab, token)) == "TOKEN_USED"
    other_key = Applicant()
    other_key.identity = bank.identity
    assert code_of(lambda: other_key.enrol(lab, token)) == "TOKEN_USED"
    assert len(lab.registry.institutions()) == 1


def test_a_token_expires(lab: Lab, clock: Clock) -> None:
    token = lab.invite("bank", hours=1)
    clock.ahead = 3601
    assert code_of(lambda: Applicant().enrol(lab, token)) == "TOKEN_EXPIRED"
    assert lab.registry.institutions() == []


def test_a_newer_token_voids_the_older(lab: Lab) -> None:
    old, new = lab.invite("bank"), lab.invite("bank")
    assert code_of(lambda: Applicant().enrol(lab, old)) == "TOKEN_UNKNOWN"
    Applicant().enrol(lab, new)


def test_a_token_is_for_one_name(lab: Lab) -> None:
    token = lab.invite("bank")
    assert code_of(lambda: Applicant("bureau").enrol(lab, token)) == "TOKEN_OTHER_NAME"


@pytest.mark.parametrize("lie", ["identity", "tls_key", "csr name", "other lab", "p384", "rsa", "garbage"])
def test_keys_that_do_not_vouch_for_each_other_are_refused(lab: Lab, lie: str) -> None:
    bank, other = Applicant(), Applicant()
    lies: dict[str, Any] = {}
    if lie == "identity":
        lies["identity"] = other.identity
    elif lie == "tls_key":
        lies["tls_key"] = other.key
    elif lie == "csr name":
        lies["csr"] = bank.csr("bureau")
    elif lie == "other lab":
        lies["statement"] = bank.statement(bytes(32))
    elif lie == "p384":
        bank.key = ec.generate_private_key(ec.SECP384R1())
    elif lie == "rsa":
        lies["tls_key"] = bank.key
        bank.key = rsa.generate_private_key(65537, 2048)
    else:
        lies["csr"] = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
    token = lab.invite("bank")
    assert code_of(lambda: bank.enrol(lab, token, **lies)) == "ENROLMENT_PROOF_INVALID"
    assert lab.registry.institutions() == []
    Applicant().enrol(lab, token)  # and the token is still good


def test_one_identity_has_one_name_and_one_name_one_identity(lab: Lab) -> None:
    bank, twin = Applicant("bank"), Applicant("twin")
    bank.enrol(lab, lab.invite("bank"))
    assert code_of(lambda: lab.invite("bank")) == "NAME_TAKEN"
    twin.identity = bank.identity
    assert code_of(lambda: twin.enrol(lab, lab.invite("twin"))) == "IDENTITY_TAKEN"
    twin.identity = lab.identity
    assert code_of(lambda: twin.enrol(lab, lab.invite("twin"))) == "IDENTITY_TAKEN"


def test_what_is_revoked_stays_out(lab: Lab, clock: Clock) -> None:
    bank = Applicant()
    first = x509.load_pem_x509_certificate(bank.enrol(lab, lab.invite("bank")).certificate.encode())
    second = x509.load_pem_x509_certificate(lab.renew("bank", bank.csr()).certificate.encode())
    assert first.serial_number != second.serial_number
    lab.registry.admit("bank", second.serial_number)
    assert code_of(lambda: lab.registry.admit("bank", first.serial_number)) == "CERTIFICATE_SUPERSEDED"
    assert code_of(lambda: lab.registry.admit("bank", 7)) == "CERTIFICATE_UNKNOWN"
    assert code_of(lambda: lab.registry.admit("bureau", second.serial_number)) == "CERTIFICATE_UNKNOWN"
    serials = {first.serial_number, second.serial_number}
    assert lab.registry.revoked_among(serials) == frozenset()
    lab.registry.revoke("bank")
    assert lab.registry.revoked_among(serials | {7}) == serials
    assert not lab.registry.is_active("bank")
    assert code_of(lambda: lab.renew("bank", bank.csr())) == "MEMBER_REVOKED"
    assert code_of(lambda: lab.invite("bank")) == "NAME_REVOKED"
    assert code_of(lambda: lab.registry.spend("bank", "00", 1)) == "MEMBER_REVOKED"
    for certificate in (first, second):
        assert code_of(lambda serial=certificate.serial_number: lab.registry.admit("bank", serial)) == "MEMBER_REVOKED"
    assert code_of(lambda: lab.registry.revoke("bureau")) == "MEMBER_UNKNOWN"
    listed = x509.load_pem_x509_crl(lab.authority.revocation_list(lab.registry.revoked_certificates(), lab.utc()))
    assert listed.is_signature_valid(lab.authority.certificate.public_key())
    assert {item.serial_number for item in listed} == {first.serial_number, second.serial_number}


def test_a_token_that_was_not_used_ends_with_its_institution(lab: Lab) -> None:
    token, bank = lab.invite("bank"), Applicant()
    bank.enrol(lab, token)
    lab.registry.revoke("bank")
    assert code_of(lambda: bank.enrol(lab, token)) == "TOKEN_USED"


def test_expiry_is_announced_thirty_days_ahead(lab: Lab, clock: Clock) -> None:
    Applicant().enrol(lab, lab.invite("bank"))
    clock.ahead = 334 * 86_400
    assert lab.warnings() == []
    clock.ahead = 336 * 86_400
    (warning,) = lab.warnings()
    assert "bank" in warning
    clock.ahead = 3_625 * 86_400
    assert any("authority" in text for text in lab.warnings())


def test_the_relays_certificate_is_renewed_when_it_must_be(lab: Lab, clock: Clock) -> None:
    def serial() -> int:
        return x509.load_pem_x509_certificate(lab.server_certificate().certificate.read_bytes()).serial_number

    first = serial()
    assert serial() == first
    clock.ahead = 336 * 86_400
    second = serial()
    assert second != first
    lab.settings = lab.settings.model_copy(update={"names": ("new.example",)})
    assert serial() not in (first, second)
    names = x509.load_pem_x509_certificate((lab.folder / "relay.pem").read_bytes()).extensions
    alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["lab.example", "new.example", "localhost"]


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    begin = datetime.datetime.now(datetime.UTC)
    authority = LabAuthority.create(tmp_path, "lab", begin)
    late = begin + datetime.timedelta(days=3_640)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert days_left(authority.client("bank", key, late), late) == 9


def test_an_authority_whose_key_is_anothers_is_not_used(lab: Lab, tmp_path: Path, clock: Clock) -> None:
    other = Lab.create(tmp_path / "other", SETTINGS, clock)
    (lab.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    other.close()
    assert code_of(lambda: Lab.load(lab.folder, clock)) == "AUTHORITY_UNREADABLE"


# -- commands


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_operators_commands_make_a_lab_invite_list_and_revoke(tmp_path: Path) -> None:
    folder = str(tmp_path / "lab")
    code, made = run("init", "--folder", folder, "--address", "lab.example:8443", "--also", "10.0.0.7")
    assert (code, made["ok"]) == (0, True)
    code, invited = run("invite", "bank", "--folder", folder)
    assert EnrolmentToken.decode(invited["token"]).ca_fingerprint.hex() == made["ca_fingerprint"]
    lab = Lab.load(tmp_path / "lab", Clock())
    Applicant().enrol(lab, invited["token"])
    lab.close()
    assert run("members", "--folder", folder)[1]["members"][0]["state"] == "active"
    assert run("revoke", "bank", "--folder", folder)[0] == 0
    assert run("members", "--folder", folder)[1]["members"][0]["state"] == "revoked"
    assert run("upgrade", "--folder", folder)[0] == 0


def test_a_refused_command_says_why_and_fails(tmp_path: Path) -> None:
    code, answer = run("invite", "bank", "--folder", str(tmp_path))
    assert (code, answer["error"]["code"]) == (1, "LAB_MISSING")
    code, answer = run("init", "--folder", str(tmp_path / "lab"), "--address", "nowhere")
    assert (code, answer["error"]["code"]) == (1, "LAB_SETTINGS_INVALID")
    text = CliRunner().invoke(app, ["invite", "bank", "--folder", str(tmp_path)])
    assert "Remedy" in text.stderr
    assert text.exit_code == 1
