"""Keys that are not for encryption with material of the token's own: HMAC keys, keys that sign, imported keys."""

import base64
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

import boto3
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from support import PROGRAM, Server, eventually, main, refused

# What a token cannot do, by its name in tokens.py: it says so when such a key is to be made.
CANNOT_SIGN_BY = {
    "kryoptic": ["ECC_SECG_P256K1"],
    "opencryptoki": ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"],
}
# Rounds in which a kill has to meet an import.
KILLED_IMPORTS_MAX = 20
RSA_ALGORITHMS = [f"RSASSA_{scheme}_SHA_{bits}" for scheme in ("PSS", "PKCS1_V1_5") for bits in (256, 384, 512)]
# Key spec, algorithms, and what the public half says that it is.
SIGNERS = {
    "RSA_2048": (RSA_ALGORITHMS, 2048),
    "RSA_3072": (RSA_ALGORITHMS, 3072),
    "RSA_4096": (RSA_ALGORITHMS, 4096),
    "ECC_NIST_P256": (["ECDSA_SHA_256"], "secp256r1"),
    "ECC_NIST_P384": (["ECDSA_SHA_384"], "secp384r1"),
    "ECC_NIST_P521": (["ECDSA_SHA_512"], "secp521r1"),
    "ECC_SECG_P256K1": (["ECDSA_SHA_256"], "secp256k1"),
}


def _same(expected, found):
    assert found == expected, found


def _at_least(count, found):
    assert len(found) >= count, found


def mac_keys_live_in_the_token_and_verify_what_they_made():
    with Server() as s:
        kms = s.client("kms")
        # The server's own keys, of the records and of the audit, come with its start.
        eventually(lambda: _at_least(2, s.token_objects()))
        before = s.token_objects()
        for bits, size in (224, 28), (256, 32), (384, 48), (512, 64):
            made = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec=f"HMAC_{bits}")["KeyMetadata"]
            assert made["MacAlgorithms"] == [f"HMAC_SHA_{bits}"], made
            key, algorithm = made["KeyId"], f"HMAC_SHA_{bits}"
            mac = kms.generate_mac(KeyId=key, Message=b"m" * 4096, MacAlgorithm=algorithm)
            assert mac["KeyId"] == made["Arn"] and len(mac["Mac"]) == size
            kms.create_alias(AliasName=f"alias/mac{bits}", TargetKeyId=key)
            verify = {"KeyId": f"alias/mac{bits}", "MacAlgorithm": algorithm, "Mac": mac["Mac"]}
            assert kms.verify_mac(Message=b"m" * 4096, **verify)["MacValid"] is True
            refused("KMSInvalidMacException", kms.verify_mac, Message=b"n" * 4096, **verify)
            refused("ValidationException", kms.generate_mac, KeyId=key, Message=b"m" * 4097, MacAlgorithm=algorithm)
            told = refused("InvalidKeyUsageException", kms.encrypt, KeyId=key, Plaintext=b"x")
            assert told == f"{made['Arn']} key usage is GENERATE_VERIFY_MAC which is not valid for Encrypt."
            refused("UnsupportedOperationException", kms.enable_key_rotation, KeyId=key)
        assert len(s.token_objects()) == len(before) + 4


def a_mac_outlives_a_restart_and_its_key_serves_no_object():
    with Server() as s:
        kms = s.client("kms")
        key = kms.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"]["KeyId"]
        mac = kms.generate_mac(KeyId=key, Message=b"message", MacAlgorithm="HMAC_SHA_256")["Mac"]
        s.stop()
        s.start()
        kms, s3 = s.client("kms"), s.client()
        assert kms.generate_mac(KeyId=key, Message=b"message", MacAlgorithm="HMAC_SHA_256")["Mac"] == mac
        s3.create_bucket(Bucket="vault")
        refused("KMS.InvalidKeyUsageException", s3.put_object, Bucket="vault", Key="a", Body=b"A",
                ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        shown = s.aws("kms describe-key --key-id", key)["KeyMetadata"]
        assert (shown["KeyUsage"], shown["KeySpec"]) == ("GENERATE_VERIFY_MAC", "HMAC_256")
        assert "EncryptionAlgorithms" not in shown


def _hash(algorithm):
    return {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}[algorithm[-3:]]()


def _digest(algorithm, message):
    return hashlib.new(f"sha{algorithm[-3:]}", message).digest()


def _verifies(public_der, algorithm, signature, message, prehashed=False):
    """Verifies as somebody does who has the public key and nothing else; raises if it does not."""
    public, hash = serialization.load_der_public_key(public_der), _hash(algorithm)
    hashed = utils.Prehashed(hash) if prehashed else hash
    if algorithm.startswith("ECDSA"):
        public.verify(signature, message, ec.ECDSA(hashed))
    elif "PSS" in algorithm:
        public.verify(signature, message, padding.PSS(padding.MGF1(hash), hash.digest_size), hashed)
    else:
        public.verify(signature, message, padding.PKCS1v15(), hashed)


def _signer(kms, spec, **more):
    return kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec, **more)["KeyMetadata"]


def keys_that_sign_live_in_the_token_and_the_world_verifies():
    with Server() as s:
        kms = s.client("kms")
        message, made_here = b"m" * 4096, 0
        cannot = CANNOT_SIGN_BY.get(os.environ.get("STRONGROOM_TEST_TOKEN"), [])
        for spec, (algorithms, kind) in SIGNERS.items():
            if spec in cannot:
                assert spec in refused("UnsupportedOperationException", _signer, kms, spec)
                continue
            made, made_here = _signer(kms, spec), made_here + 1
            key = made["KeyId"]
            assert (made["KeyUsage"], made["KeySpec"], made["SigningAlgorithms"]) == ("SIGN_VERIFY", spec, algorithms)
            told = kms.get_public_key(KeyId=key)
            assert (told["KeyId"], told["KeySpec"], told["KeyUsage"]) == (made["Arn"], spec, "SIGN_VERIFY")
            assert told["SigningAlgorithms"] == algorithms and told["CustomerMasterKeySpec"] == spec
            public = serialization.load_der_public_key(told["PublicKey"])
            if isinstance(public, rsa.RSAPublicKey):
                assert (public.key_size, public.public_numbers().e) == (kind, 65537)
            else:
                assert public.curve.name == kind
            for algorithm in algorithms:
                signed = kms.sign(KeyId=key, Message=message, SigningAlgorithm=algorithm)
                assert (signed["KeyId"], signed["SigningAlgorithm"]) == (made["Arn"], algorithm)
                _verifies(told["PublicKey"], algorithm, signed["Signature"], message)
                digest = _digest(algorithm, message)
                hashed = kms.sign(KeyId=key, Message=digest, MessageType="DIGEST", SigningAlgorithm=algorithm)
                _verifies(told["PublicKey"], algorithm, hashed["Signature"], digest, prehashed=True)
                verify = {"KeyId": key, "SigningAlgorithm": algorithm, "Signature": signed["Signature"]}
                assert kms.verify(Message=message, **verify)["SignatureValid"] is True
                assert kms.verify(Message=digest, MessageType="DIGEST", **verify)["SignatureValid"] is True
                refused("KMSInvalidSignatureException", kms.verify, Message=b"n" * 4096, **verify)
                refused("ValidationException", kms.sign, KeyId=key, Message=digest[:-1], MessageType="DIGEST",
                        SigningAlgorithm=algorithm)
            other = "ECDSA_SHA_384" if spec != "ECC_NIST_P384" else "ECDSA_SHA_256"
            refused("InvalidKeyUsageException", kms.sign, KeyId=key, Message=b"m", SigningAlgorithm=other)
            refused("ValidationException", kms.sign, KeyId=key, Message=b"m" * 4097, SigningAlgorithm=algorithms[0])
            told = refused("InvalidKeyUsageException", kms.generate_data_key, KeyId=key, KeySpec="AES_256")
            assert told == f"{made['Arn']} key usage is SIGN_VERIFY which is not valid for GenerateDataKey."
            refused("UnsupportedOperationException", kms.enable_key_rotation, KeyId=key)
        # The private halves, and nothing else of them.
        assert len(s.token_objects(kind="privkey")) == made_here
        assert s.token_objects(kind="pubkey") == []


def a_signing_key_is_managed_like_any_key_by_the_aws_cli():
    with Server() as s:
        kms = s.client("kms")
        made = s.aws("kms create-key --key-usage SIGN_VERIFY --key-spec ECC_NIST_P256 --tags TagKey=a,TagValue=b")
        key = made["KeyMetadata"]["KeyId"]
        s.aws("kms create-alias --alias-name alias/signs --target-key-id", key)
        message, signature = s.dir / "message", s.dir / "signature"
        message.write_bytes(b"message")
        by_alias = "kms sign --key-id alias/signs --signing-algorithm ECDSA_SHA_256 --message"
        signed = s.aws(by_alias, f"fileb://{message}")
        signature.write_bytes(base64.b64decode(signed["Signature"]))
        public = s.dir / "public.der"
        public.write_bytes(kms.get_public_key(KeyId="alias/signs")["PublicKey"])
        verified = subprocess.run(["openssl", "dgst", "-sha256", "-verify", str(public), "-keyform", "DER", "-signature",
                                   str(signature), str(message)], capture_output=True, text=True)
        assert "Verified OK" in verified.stdout, verified
        verify = f"kms verify --key-id alias/signs --signing-algorithm ECDSA_SHA_256 --signature fileb://{signature} --message"
        assert s.aws(verify, f"fileb://{message}")["SignatureValid"] is True
        message.write_bytes(b"another")
        s.aws(verify, f"fileb://{message}", fails="KMSInvalidSignatureException")
        # After a restart the pair is found again and proves itself.
        s.stop()
        s.start()
        kms = s.client("kms")
        signed = kms.sign(KeyId=key, Message=b"message", SigningAlgorithm="ECDSA_SHA_256")["Signature"]
        _verifies(public.read_bytes(), "ECDSA_SHA_256", signed, b"message")
        described = subprocess.run([PROGRAM, "key", "describe", "alias/signs"], env=s.environment(),
                                   capture_output=True, text=True)
        assert described.returncode == 0 and "ECDSA_SHA_256" in described.stdout, described
        asked = subprocess.run([PROGRAM, "audit", "keys", "--format", "json"], env=s.environment(),
                               capture_output=True, text=True)
        assert asked.returncode == 0, asked
        [version] = [version for entry in json.loads(asked.stdout)["Keys"] if entry.get("KeyId") == key
                     for version in entry["Versions"]]
        assert (version["Opens"], version["Scheme"]) == (True, "signature"), version
        [object] = version["Objects"]
        told = object["Attributes"]
        assert object["Part"] == "private key" and told["usage"] == "SIGN", object
        assert (told["SENSITIVE"], told["EXTRACTABLE"], told["NEVER_EXTRACTABLE"], told["LOCAL"]) == (
            "true", "false", "true", "true"), told
        sign = {"KeyId": key, "Message": b"message", "SigningAlgorithm": "ECDSA_SHA_256"}
        refused("DryRunOperationException", kms.sign, DryRun=True, **sign)
        refused("ValidationException", kms.sign, DryRun=True, MessageType="DIGEST", **sign)
        kms.disable_key(KeyId=key)
        refused("DisabledException", kms.sign, **sign)
        refused("DisabledException", kms.verify, Signature=signed, **sign)
        refused("DisabledException", kms.get_public_key, KeyId=key)
        refused("DisabledException", kms.sign, DryRun=True, **sign)
        kms.enable_key(KeyId=key)
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        refused("KMSInvalidStateException", kms.sign, **sign)
        kms.cancel_key_deletion(KeyId=key)
        for spec in "ECC_NIST_EDWARDS25519", "ML_DSA_44":
            refused("UnsupportedOperationException", _signer, kms, spec)
        refused("UnsupportedOperationException", kms.create_key, KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
        refused("UnsupportedOperationException", kms.create_key, KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
        refused("ValidationException", kms.create_key, KeySpec="RSA_2048")


def what_a_signature_may_be_asked_for_is_policys_to_say():
    with Server() as s:
        kms, iam = s.client("kms"), s.client("iam")
        key = _signer(kms, "RSA_2048")
        root = key["Arn"].split(":")[4]
        user = iam.create_user(UserName="signer")["User"]["Arn"]
        pair = iam.create_access_key(UserName="signer")["AccessKey"]
        theirs = boto3.session.Session().client(
            "kms", endpoint_url=s.endpoint, region_name=s.region, aws_access_key_id=pair["AccessKeyId"],
            aws_secret_access_key=pair["SecretAccessKey"])
        sign = {"KeyId": key["KeyId"], "Message": b"m", "SigningAlgorithm": "RSASSA_PSS_SHA_256"}
        refused("AccessDeniedException", theirs.sign, **sign)
        refused("AccessDeniedException", theirs.get_public_key, KeyId=key["KeyId"])
        allow = {"Effect": "Allow", "Resource": "*"}
        condition = {"kms:SigningAlgorithm": "RSASSA_PSS_SHA_256", "kms:MessageType": "RAW"}
        policy = {"Version": "2012-10-17", "Statement": [
            allow | {"Principal": {"AWS": f"arn:aws:iam::{root}:root"}, "Action": "kms:*"},
            allow | {"Principal": {"AWS": user}, "Action": ["kms:Sign"], "Condition": {"StringEquals": condition}},
        ]}
        kms.put_key_policy(KeyId=key["KeyId"], Policy=json.dumps(policy))
        signature = theirs.sign(**sign)["Signature"]
        refused("AccessDeniedException", theirs.sign, **sign | {"SigningAlgorithm": "RSASSA_PSS_SHA_384"})
        refused("AccessDeniedException", theirs.sign, **sign | {"MessageType": "DIGEST", "Message": b"m" * 32})
        refused("AccessDeniedException", theirs.verify, Signature=signature, **sign)
        kms.create_grant(KeyId=key["KeyId"], GranteePrincipal=user, Operations=["Verify", "GetPublicKey"])
        assert theirs.verify(Signature=signature, **sign)["SignatureValid"]
        assert theirs.get_public_key(KeyId=key["KeyId"])["PublicKey"]
        refused("ValidationException", kms.create_grant, KeyId=key["KeyId"], GranteePrincipal=user,
                Operations=["Encrypt"])


def in_an_outage_signatures_are_verified_and_none_are_made():
    with Server() as s:
        kms = s.client("kms")
        key = _signer(kms, "ECC_NIST_P256")["KeyId"]
        sign = {"KeyId": key, "Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}
        signature = kms.sign(**sign)["Signature"]
        public = kms.get_public_key(KeyId=key)["PublicKey"]
        s.unplug()
        eventually(lambda: refused("KeyUnavailableException", kms.sign, **sign))
        assert kms.verify(Signature=signature, **sign)["SignatureValid"] is True
        assert kms.get_public_key(KeyId=key)["PublicKey"] == public
        s.plug_in()
        eventually(lambda: _verifies(public, "ECDSA_SHA_256", kms.sign(**sign)["Signature"], b"m"))


def _wrap(public_der, material, sha="sha1"):
    """Wraps as somebody does who brings material along: by the openssl command."""
    with tempfile.TemporaryDirectory() as folder:
        public = pathlib.Path(folder) / "public.der"
        public.write_bytes(public_der)
        out = subprocess.run(["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", str(public),
                              "-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", f"rsa_oaep_md:{sha}",
                              "-pkeyopt", f"rsa_mgf1_md:{sha}"], input=material, capture_output=True)
        assert out.returncode == 0, out.stderr
        return out.stdout


def _import(kms, key, material, **more):
    got = kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_1", WrappingKeySpec="RSA_3072")
    more.setdefault("ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    return kms.import_key_material(KeyId=key, ImportToken=got["ImportToken"],
                                   EncryptedKeyMaterial=_wrap(got["PublicKey"], material), **more)


def material_is_brought_along_used_deleted_and_brought_again():
    with Server() as s:
        kms, s3 = s.client("kms"), s.client()
        key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]
        assert (key["KeyState"], key["Origin"]) == ("PendingImport", "EXTERNAL")
        key = key["KeyId"]
        material, before = bytes(range(32)), s.token_objects()
        refused("IncorrectKeyMaterialException", _import, kms, key, bytes(16))
        first = _import(kms, key, material)["KeyMaterialId"]
        assert len(s.token_objects()) == len(before) + 1
        s3.create_bucket(Bucket="vault")
        s3.put_object(Bucket="vault", Key="a", Body=b"A", ServerSideEncryption="aws:kms", SSEKMSKeyId=key)
        assert kms.delete_imported_key_material(KeyId=key)["KeyMaterialId"] == first
        assert s.token_objects() == before
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "PendingImport"
        refused("KMS.KMSInvalidStateException", s3.get_object, Bucket="vault", Key="a")
        refused("IncorrectKeyMaterialException", _import, kms, key, bytes(32))
        assert s.token_objects() == before
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)
        again = _import(kms, key, material, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=until)
        assert again["KeyMaterialId"] == first
        s.stop()
        s.start()
        assert s.client().get_object(Bucket="vault", Key="a")["Body"].read() == b"A"
        shown = s.client("kms").describe_key(KeyId=key)["KeyMetadata"]
        assert (shown["KeyState"], shown["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_EXPIRES")
        assert abs((shown["ValidTo"] - until).total_seconds()) < 1
        # Found nowhere on the disk.
        assert not [path for path in s.files() if material in path.read_bytes()]


def several_materials_of_one_key_are_rotated_to_and_listed_and_all_must_be_there():
    with Server() as s:
        kms, s3 = s.client("kms"), s.client()
        key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
        old, new, other = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
        first = _import(kms, key, old, KeyMaterialDescription="of 2025")["KeyMaterialId"]
        s3.create_bucket(Bucket="vault")
        sse = {"Bucket": "vault", "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
        s3.put_object(Key="a", Body=b"A", **sse)
        told = refused("KMSInvalidStateException", kms.rotate_key_on_demand, KeyId=key)
        assert told.startswith("No available key material pending rotation"), told
        refused("IncorrectKeyMaterialException", _import, kms, key, new)
        refused("IncorrectKeyMaterialException", _import, kms, key, old, ImportType="NEW_KEY_MATERIAL")
        second = _import(kms, key, new, ImportType="NEW_KEY_MATERIAL")["KeyMaterialId"]
        refused("KMSInvalidStateException", _import, kms, key, other, ImportType="NEW_KEY_MATERIAL")
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == first
        kms.rotate_key_on_demand(KeyId=key)
        s3.put_object(Key="b", Body=b"B", **sse)
        all_of_them = kms.get_paginator("list_key_rotations").paginate(
            KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", PaginationConfig={"PageSize": 1})
        listed = [entry for page in all_of_them for entry in page["Rotations"]]
        assert [(e["KeyMaterialId"], e["KeyMaterialState"], e["ImportState"]) for e in listed] == [
            (first, "NON_CURRENT", "IMPORTED"), (second, "CURRENT", "IMPORTED")]
        assert listed[0]["KeyMaterialDescription"] == "of 2025" and "RotationDate" not in listed[0]
        assert listed[1]["RotationType"] == "ON_DEMAND" and "KeyMaterialDescription" not in listed[1]
        [rotation] = s.aws("kms list-key-rotations --key-id", key)["Rotations"]
        assert rotation["KeyMaterialId"] == second
        assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
        kms.delete_imported_key_material(KeyId=key, KeyMaterialId=first)
        shown = kms.describe_key(KeyId=key)["KeyMetadata"]
        assert (shown["KeyState"], shown["CurrentKeyMaterialId"]) == ("PendingImport", second)
        for name in "a", "b":
            refused("KMS.KMSInvalidStateException", s3.get_object, Bucket="vault", Key=name)
        assert _import(kms, key, old, KeyMaterialId=first)["KeyMaterialId"] == first
        s.stop()
        s.start()
        s3 = s.client()
        assert [s3.get_object(Bucket="vault", Key=name)["Body"].read() for name in "ab"] == [b"A", b"B"]
        assert not [path for path in s.files() if old in path.read_bytes() or new in path.read_bytes()]


def an_import_that_is_killed_leaves_nothing_in_the_token():
    """Kills are timed by halves until two come between the intent of an import and its commit, as the next start tells."""
    with Server() as s:
        kms = s.client("kms")
        eventually(lambda: _at_least(2, s.token_objects()))
        before, material = set(s.token_objects()), bytes(range(32))
        pairs = s.token_objects(kind="privkey")
        early, late, hits = 0.0, 1.0, 0
        for _ in range(KILLED_IMPORTS_MAX):
            kms = s.client("kms")
            key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
            got = kms.get_parameters_for_import(KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_1",
                                                WrappingKeySpec="RSA_2048")
            ask = {"KeyId": key, "ImportToken": got["ImportToken"], "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
                   "EncryptedKeyMaterial": _wrap(got["PublicKey"], material)}

            def ask_and_die():
                try:
                    kms.import_key_material(**ask)
                except Exception:  # noqa: BLE001 - the server is killed
                    pass

            asking, delay = threading.Thread(target=ask_and_die), (early + late) / 2
            asking.start()
            time.sleep(delay)
            s.kill()
            asking.join()
            told = (s.dir / "log").stat().st_size
            s.start()
            told = (s.dir / "log").read_bytes()[told:]
            kms = s.client("kms")
            state = kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
            if b"kms.import.left_ended" in told or b"kms.intent.ended" in told:
                assert state == "PendingImport", state
                hits += 1
            elif state == "Enabled":
                # Committed before the kill: it works, and is taken away.
                kms.encrypt(KeyId=key, Plaintext=b"x")
                kms.delete_imported_key_material(KeyId=key)
                late = delay
            else:
                early = delay
            if late - early < 0.005:
                early, late = max(early - 0.02, 0.0), late + 0.02
            assert set(s.token_objects()) == before, s.token_objects()
            if hits == 2:
                break
        assert hits >= 1, (early, late)
        kms = s.client("kms")
        _import(kms, key, material)
        kms.encrypt(KeyId=key, Plaintext=b"x")
        assert len(s.token_objects()) == len(before) + 1
        # Of the pairs none is left when their day is over.
        s.stop()
        s.start_later(days=2)
        eventually(lambda: _same(pairs, s.token_objects(kind="privkey")))
        assert len(s.token_objects()) == len(before) + 1


def only_what_the_token_passed_live_is_on_offer_for_an_import():
    with Server() as s:
        kms = s.client("kms")
        key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
        ask = {"KeyId": key, "WrappingKeySpec": "RSA_2048"}
        got = kms.get_parameters_for_import(WrappingAlgorithm="RSA_AES_KEY_WRAP_SHA_1", **ask)
        told = refused("UnsupportedOperationException", kms.get_parameters_for_import,
                       WrappingAlgorithm="RSAES_OAEP_SHA_256", **ask)
        assert "RSAES_OAEP_SHA_256" in told
        refused("UnsupportedOperationException", kms.get_parameters_for_import,
                WrappingAlgorithm="RSAES_PKCS1_V1_5", **ask)
        refused("InvalidCiphertextException", kms.import_key_material, KeyId=key, ImportToken=got["ImportToken"],
                EncryptedKeyMaterial=b"x" * 296, ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
        refused("InvalidImportTokenException", kms.import_key_material, KeyId=key, ImportToken=b"x" * 90,
                EncryptedKeyMaterial=b"x" * 296, ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE")
        own = kms.create_key()["KeyMetadata"]["KeyId"]
        refused("UnsupportedOperationException", kms.get_parameters_for_import, KeyId=own,
                WrappingAlgorithm="RSAES_OAEP_SHA_1", WrappingKeySpec="RSA_2048")


main(globals())
