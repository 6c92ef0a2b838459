"""What only a TPM can do."""

import re
import subprocess

from support import PROGRAM, Server, clean_environment, eventually, main, refused

# PCR 16 is for debugging: everybody may extend it.
PCR = 16


def _run(*arguments):
    out = subprocess.run(list(map(str, arguments)), env=clean_environment(), capture_output=True)
    assert out.returncode == 0, (arguments, out.stdout, out.stderr)
    return out


def a_key_bound_to_pcrs_opens_in_the_same_boot_or_by_the_recovery_key():
    with Server(token="swtpm") as s:
        s.stop()
        config, private, public = s.home / "strongroom.toml", s.dir / "recovery.pem", s.home / "recovery.pub"
        _run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
        _run("openssl", "ec", "-in", private, "-pubout", "-out", public)
        text, tables = re.subn(r"(?ms)^\[hsm\.tpm\]\n.*?(?=^\[|\Z)", f'[hsm.tpm]\npcrs = [{PCR}]\nrecovery_key = "{public}"\n'
                               f'recovery_policy = "{s.home}/policy"\n\n', config.read_text())
        assert tables == 1, text
        config.write_text(text)
        s.start()
        s3 = s.client()
        s3.create_bucket(Bucket="vault")
        s3.put_object(Bucket="vault", Key="k", Body=b"K", ServerSideEncryption="aws:kms")
        s.stop()
        tcti = f"swtpm:host=127.0.0.1,port={s.token.port}"
        _run("tpm2_pcrextend", "-T", tcti, f"{PCR}:sha256=" + "11" * 32)
        s.start()
        s3 = s.client()
        refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="k", status=503)
        assert f"PCR {PCR}" in (s.dir / "log").read_text()
        assert s3.head_object(Bucket="vault", Key="k")["ContentLength"] == 1
        s.stop()
        out = _run(PROGRAM, "hsm", "pcr-message", "--config", config)
        values = re.search(rb"values ([0-9a-f]{64})", out.stderr).group(1).decode()
        (s.dir / "message").write_bytes(out.stdout)
        _run("openssl", "dgst", "-sha256", "-sign", private, "-out", s.dir / "signature", s.dir / "message")
        policy = _run(PROGRAM, "hsm", "pcr-policy", "--config", config, "--values", values, "--signature", s.dir / "signature")
        s.start()
        s3 = s.client()
        refused("ServiceUnavailable", s3.get_object, Bucket="vault", Key="k", status=503)
        (s.home / "policy").write_bytes(policy.stdout)
        assert eventually(lambda: s3.get_object(Bucket="vault", Key="k")["Body"].read()) == b"K"


def hsm_check_describes_a_tpm():
    with Server(token="swtpm") as s:
        s.stop()
        said = _run(PROGRAM, "hsm", "check", "--config", s.home / "strongroom.toml").stdout.decode()
        for word in "backend tpm", "manufacturer", "firmware", "lockout", "scheme tpm-sealed", "can hold Strongroom's keys":
            assert word in said, said
        s.start()


def a_tpm_makes_no_keys_that_sign_and_says_so():
    with Server(token="swtpm") as s:
        kms = s.client("kms")
        for spec in "RSA_2048", "ECC_NIST_P256":
            told = refused("UnsupportedOperationException", kms.create_key, KeyUsage="SIGN_VERIFY", KeySpec=spec)
            assert spec in told, told
        assert kms.list_keys()["Keys"] == []


main(globals())
