"""Keys that are not for encryption with material of the token's own: HMAC keys, imported keys."""

import datetime
import pathlib
import subprocess
import tempfile

from support import Server, eventually, main, refused


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
