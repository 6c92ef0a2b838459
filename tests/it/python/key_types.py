"""Keys that are not for encryption with material of the token's own: HMAC keys."""

from support import Server, main, refused


def mac_keys_live_in_the_token_and_verify_what_they_made():
    with Server() as s:
        kms = s.client("kms")
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


main(globals())
